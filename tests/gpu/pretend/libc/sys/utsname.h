/* utsname.h - as much of Apple's as host_metal.m uses, to check its types where there is no Apple SDK. */
#ifndef PRETEND_SYS_UTSNAME_H
#define PRETEND_SYS_UTSNAME_H

struct utsname {
    char sysname[256];
    char nodename[256];
    char release[256];
    char version[256];
    char machine[256];
};

int uname(struct utsname *);

#endif
