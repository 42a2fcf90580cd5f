"""Truth: Django's view `report` burns in `totals` (slot 0), under the chain of calls that the interpreter tells; see
../python/oracle.py, which must be on the path. For gunicorn: `django_app:application`."""
import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path

from oracle import MS, ROUNDS, UNITS, account, clock, jitter, tell

settings.configure(
    SECRET_KEY="not secret",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"],
)
django.setup()


def totals(number):
    tell(0)
    began, quota, x = clock(), jitter(3 * MS), number
    while clock() - began < quota:
        for _ in ROUNDS:
            x = x * 31 & 65535
    account[0] += clock() - began
    account[UNITS] += 1
    return x


def report(_request, number):
    return JsonResponse({"total": totals(number)})


urlpatterns = [path("report/<int:number>", report)]
application = get_wsgi_application()
