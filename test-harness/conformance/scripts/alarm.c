// Interrupts the program it is loaded into (LD_PRELOAD) a hundred times a second, as a profiler's timer does.
//
// The handler does nothing and asks for interrupted calls to go on (SA_RESTART). A POSIX timer ends with `exec` and is
// not there after `fork`, so that no process is interrupted that has no handler.
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <time.h>

static void tick(int signal) { (void)signal; }

__attribute__((constructor)) static void begin(void) {
    int number = SIGRTMAX - 3;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = tick;
    action.sa_flags = SA_RESTART;
    if (sigaction(number, &action, NULL)) return;
    struct sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = number;
    timer_t timer;
    if (timer_create(CLOCK_MONOTONIC, &event, &timer)) return;
    struct itimerspec every = {{0, 10000000}, {0, 10000000}};
    timer_settime(timer, 0, &every, NULL);
}
