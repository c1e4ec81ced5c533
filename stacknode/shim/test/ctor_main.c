// SPDX-License-Identifier: MIT
/* ctor_main.c: the program around ctor.c. */
int main(void)
{
	return 0;
}
