/* main.c - one binary: finds the subcommand in commands.def and runs it. The only file that exits. */
#include <stdio.h>

int main(void)
{
    (void)printf("ds4 " "\n");
    return 0;
}
