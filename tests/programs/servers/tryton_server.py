"""Tryton's own server at 127.0.0.1:argv[2], from the packages in the folder argv[1]. Its database lies beside this file, a copy
of a new one, which the folder keeps once it was made: that takes seconds."""
import fcntl
import logging
import os
import runpy
import shutil
import subprocess
import sys

packages, port = sys.argv[1:]
here = os.path.dirname(os.path.abspath(__file__))
kept = os.path.join(packages, "tryton.sqlite")
own = os.path.join(here, "tryton.sqlite")
password = os.path.join(here, "password")
os.environ.update(
    TRYTOND_DATABASE__URI="sqlite://",
    TRYTOND_DATABASE__PATH=here,
    TRYTOND_WEB__LISTEN="127.0.0.1:" + port,
    TRYTONPASSFILE=password,
    # As whom it works; not every tree knows whose number it is.
    LOGNAME="root",
)


def make_database():
    with open(password, "w") as file:
        file.write("admin")
    open(own, "w").close()
    program = os.path.join(packages, "bin", "trytond-admin")
    subprocess.run([sys.executable, program, "-d", "tryton", "--all", "--email", "admin@example.com"], check=True)
    shutil.copy(own, kept + ".part")
    os.replace(kept + ".part", kept)


# One makes it, others of the same version wait.
with open(kept + ".lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not os.path.exists(kept):
        make_database()
shutil.copy(kept, own)
# It would tell each request, and each that fails with where.
logging.disable(logging.ERROR)
sys.argv = ["trytond", "-d", "tryton"]
runpy.run_path(os.path.join(packages, "bin", "trytond"), run_name="__main__")
