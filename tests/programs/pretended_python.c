/* Truth: it has the symbols of a CPython of version VERSION, and an evaluation loop that gcc splits in two.
 * With CALLS, the loop calls functions that execute instructions, as --with-tail-call-interp has it. With OTHER, it has
 * nothing but a function of this name, which other Pythons export. */
#ifdef OTHER
int OTHER(const char *source) { return *source; }
#else
#ifndef VERSION
#define VERSION 0x030b05f0
#endif

const unsigned long Py_Version = VERSION;
struct { char cookie[8]; unsigned long version, free_threaded; } _PyRuntime __attribute__((section(".PyRuntime"))) =
	{ "xdebugpy", VERSION, 1 };
long PyCode_Type[51] = { 1 }, PyUnicode_Type[52] = { 1 };

typedef long (*handler)(const unsigned char *, long *);
long leave(long, long *);
__attribute__((cold, noinline)) long complain(long *stack, int opcode) { return stack[opcode] += opcode; }

#ifdef CALLS
handler handlers[8];
__attribute__((noinline)) long start(const unsigned char *code, long *stack) { return handlers[*code & 7](code + 1, stack); }

long _PyEval_EvalFrameDefault(const unsigned char *code, long *stack)
{
	long entry[4] = { *code, 1, 2, 3 };
	long result = start(code, entry) + entry[1];
	return result + start(code, stack);
}
#else
long _PyEval_EvalFrameDefault(const unsigned char *code, long *stack)
{
	static void *const targets[] = { &&push, &&pop, &&add, &&call, &&end };
	long *top = stack, depth = 0, result = 0;
#define DISPATCH() do { if (__builtin_expect(*code > 4, 0)) goto unknown; goto *targets[*code++]; } while (0)
	DISPATCH();
push:
	*top++ = *code++;
	DISPATCH();
pop:
	if (__builtin_expect(top == stack, 0)) {
		result += complain(stack, 1) + complain(stack, 2);
		goto failed;
	}
	top--;
	DISPATCH();
add:
	top[-2] += top[-1];
	top--;
	DISPATCH();
call:
	depth += leave(depth, top);
	DISPATCH();
unknown:
	result += complain(stack, 3);
	result ^= complain(top, (int)depth);
	goto failed;
failed:
	if (complain(stack, 4))
		DISPATCH();
end:
	/* A tail call: not a part of the loop. */
	return leave(depth + result, top);
}
#endif

__attribute__((noinline)) long leave(long value, long *stack)
{
	long sum = 0;
	for (long *slot = stack; slot < stack + value; slot++)
		sum += *slot;
	return value + value / 2 + sum;
}

#ifdef MAIN
int main(int argc, char **argv)
{
	return (int)_PyEval_EvalFrameDefault((unsigned char *)argv[0], (long *)argv) + argc;
}
#endif
#endif
