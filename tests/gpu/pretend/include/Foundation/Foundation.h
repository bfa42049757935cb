/* Foundation.h - declarations of the part of Apple's API that host_metal.m uses, for its type check and for the pretend
 * Metal. */
#ifndef PRETEND_FOUNDATION_H
#define PRETEND_FOUNDATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#if __has_include(<objc/objc.h>)
#include <objc/objc.h>
#else
typedef struct objc_class *Class;
typedef struct objc_object {
    Class isa;
} *id;
typedef signed char BOOL;
typedef struct objc_selector *SEL;
#define nil ((id)0)
#define YES ((BOOL)1)
#define NO ((BOOL)0)
#endif
typedef unsigned long NSUInteger;
typedef long NSInteger;
typedef double CFTimeInterval;

@protocol NSObject
- (id)retain;
- (oneway void)release;
- (id)autorelease;
@end
__attribute__((objc_root_class)) @interface NSObject <NSObject> {
    Class isa;
    NSUInteger _n_owners;
}
+ (id)alloc;
+ (id)new;
- (id)init;
- (void)dealloc;
@end
@interface NSAutoreleasePool : NSObject
- (void)drain;
@end
@interface NSString : NSObject {
    char *_text;
}
+ (NSString *)stringWithUTF8String:(const char *)text;
- (const char *)UTF8String;
@end
@interface NSError : NSObject {
@public
    const char *_why;
}
- (NSString *)localizedDescription;
@end

#endif
