"""Tryton's own server at 127.0.0.1:argv[2], from the packages in the folder argv[1], on SQLite; or on the PostgreSQL at the
address argv[3], which ends before the name of the database. Its database `tryton` is a copy of a new one, which the folder
keeps once it was made: that takes seconds. With SQLite it lies beside this file."""
import fcntl
import logging
import os
import runpy
import shutil
import subprocess
import sys
import urllib.parse

packages, port, *address = sys.argv[1:]
here = os.path.dirname(os.path.abspath(__file__))
own = os.path.join(here, "tryton.sqlite")
password = os.path.join(here, "password")
POSTGRES = "/usr/lib/postgresql/15/bin/"
os.environ.update(
    TRYTOND_DATABASE__URI=address[0] if address else "sqlite://",
    TRYTOND_DATABASE__PATH=here,
    TRYTOND_WEB__LISTEN="127.0.0.1:" + port,
    TRYTONPASSFILE=password,
    # As whom it works; not every tree knows whose number it is.
    LOGNAME="root",
)


def run(*command):
    subprocess.run(command, check=True)


def fill_database():
    with open(password, "w") as file:
        file.write("admin")
    program = os.path.join(packages, "bin", "trytond-admin")
    run(sys.executable, program, "-d", "tryton", "--all", "--email", "admin@example.com")


class Sqlite:
    kept = os.path.join(packages, "tryton.sqlite")

    def make(self, part):
        open(own, "w").close()
        fill_database()
        shutil.copy(own, part)

    def copy(self):
        shutil.copy(self.kept, own)


class Postgresql:
    kept = os.path.join(packages, "tryton.postgresql")

    def make(self, part):
        self.create()
        fill_database()
        run(POSTGRES + "pg_dump", "-Fc", "-f", part, self.address("tryton"))
        run(POSTGRES + "dropdb", "--maintenance-db", self.address("postgres"), "tryton")

    def copy(self):
        self.create()
        run(POSTGRES + "pg_restore", "-d", self.address("tryton"), self.kept)
        # What a database that is in use has.
        run(POSTGRES + "psql", "-q", "-c", "ANALYZE", self.address("tryton"))

    def create(self):
        run(POSTGRES + "createdb", "--maintenance-db", self.address("postgres"), "tryton")

    def address(self, name):
        return urllib.parse.urlsplit(address[0])._replace(path="/" + name).geturl()


database = Postgresql() if address else Sqlite()
# One makes it, others of the same version wait.
with open(database.kept + ".lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not os.path.exists(database.kept):
        database.make(database.kept + ".part")
        os.replace(database.kept + ".part", database.kept)
database.copy()
# It would tell each request, and each that fails with where.
logging.disable(logging.ERROR)
sys.argv = ["trytond", "-d", "tryton"]
runpy.run_path(os.path.join(packages, "bin", "trytond"), run_name="__main__")
