"""Truth: each kind of code burns in `burn`, or in its own frame where that is a generator's, under the chain that the
interpreter told. Slots 4 to 14 by kind; slot 0 holds their sum."""
from functools import wraps

from oracle import MS, ROUNDS, UNITS, account, clock, jitter, tell


def add(slot, since):
    spent = clock() - since
    account[0] += spent
    account[slot] += spent
    account[UNITS] += 1


def burn(slot):
    tell(slot)
    began, quota, x = clock(), jitter(3 * MS), 1
    while clock() - began < quota:
        for _ in ROUNDS:
            x = x * 31 & 65535
    add(slot, began)
    return 1


def numbers():
    for number in range(3):
        tell(4)
        began, x = clock(), 1
        while clock() - began < 2 * MS:
            for _ in ROUNDS:
                x = x * 31 & 65535
        add(4, began)
        yield number


def by_generator():
    for _ in numbers():
        pass


def innermost():
    for number in range(3):
        tell(5)
        began, x = clock(), 1
        while clock() - began < 2 * MS:
            for _ in ROUNDS:
                x = x * 31 & 65535
        add(5, began)
        yield number


def middle():
    yield from innermost()


def outermost():
    yield from middle()
    yield 0


def by_yield_from():
    return sum(outermost())


def decorate(function):
    @wraps(function)
    def wrapper(*arguments, **named):
        return function(*arguments, **named)
    return wrapper


@decorate
@decorate
def decorated(slot=6):
    burn(slot)


def by_decorator():
    decorated(slot=6)


def by_comprehension():
    return [burn(7) for _ in range(2)]


def by_generator_expression():
    return sum(burn(8) for _ in range(2))


class Base:
    def method(self):
        return self.fixed(9)

    @staticmethod
    def fixed(slot):
        return Shape.of_class(slot)

    @classmethod
    def of_class(cls, slot):
        return burn(slot)


class Shape(Base):
    class Inner:
        @property
        def worth(self):
            return burn(10)

    def method(self):
        return super().method()

    def __add__(self, other):
        return burn(other)


def by_methods():
    Shape().method()


def by_property():
    return Shape.Inner().worth


def by_lambda():
    return (lambda slot: (lambda: burn(slot))())(11)


scope = {"burn": burn}
exec(compile("def made(slot):\n    return inner(slot)\n\n\ndef inner(slot):\n    return burn(slot)\n", "<made>", "exec"), scope)


def by_exec():
    exec("made(12)", scope)


class Holder:
    def __init__(self, slot):
        def enclosed():
            return burn(slot)
        self.held = enclosed()


def by_closure():
    return Holder(13).held


def by_operator():
    return Shape() + 14


def main():
    kinds = [by_generator, by_yield_from, by_decorator, by_comprehension, by_generator_expression, by_methods, by_property,
             by_lambda, by_exec, by_closure, by_operator]
    while True:
        for kind in kinds:
            kind()


main()
