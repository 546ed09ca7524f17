//! Whether a thread that waits in the kernel for an answer has been killed.
//!
//! FUSE tells of a signal once, of any signal, and never of the next (`request_wait_answer` in Linux `fs/fuse/dev.c` sets
//! FR_INTERRUPTED for good); then the caller waits on, whatever comes. So who waits is looked at in `/proc`. A signal that
//! ends a process becomes SIGKILL, pending for each of its threads, when it is sent; one that also dumps core stays what
//! it is until it is taken.
//!
//! A caller that cannot be looked at, because it is outside the pid namespace of the mount (thread id 0) or `/proc` does
//! not show it, counts as killed by the first signal: better an EINTR too many than a program nobody can end.

/// Bit of SIGKILL in a mask.
const KILL: u64 = bit(libc::SIGKILL);
/// Signals whose default action ends nothing.
const HARMLESS: u64 = bit(libc::SIGCHLD)
    | bit(libc::SIGCONT)
    | bit(libc::SIGURG)
    | bit(libc::SIGWINCH)
    | bit(libc::SIGSTOP)
    | bit(libc::SIGTSTP)
    | bit(libc::SIGTTIN)
    | bit(libc::SIGTTOU);

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Whether thread `thread` will end as soon as it is let go.
pub(crate) fn is_killed(thread: u32) -> bool {
    if thread == 0 {
        return true;
    }
    // The number of a thread leads to it also where listings show processes only.
    std::fs::read(format!("/proc/{thread}/status")).map_or(true, |status| ends(&status))
}

/// Whether the signals in a `status` of `/proc` end the thread.
fn ends(status: &[u8]) -> bool {
    let mut masks = [None; 5];
    for line in status.split(|byte| *byte == b'\n') {
        for (mask, name) in
            masks.iter_mut().zip(["SigPnd:", "ShdPnd:", "SigBlk:", "SigIgn:", "SigCgt:"])
        {
            if let Some(value) = line.strip_prefix(name.as_bytes()) {
                *mask = parse(value);
            }
        }
    }
    let [Some(own), Some(shared), Some(blocked), Some(ignored), Some(caught)] = masks else {
        return true;
    };
    let pending = own | shared;
    pending & KILL != 0 || pending & !(blocked | ignored | caught | HARMLESS) != 0
}

fn parse(value: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(value).ok()?.trim(), 16).ok()
}

#[cfg(test)]
mod test {
    use super::*;

    fn status(own: u64, shared: u64, blocked: u64, ignored: u64, caught: u64) -> Vec<u8> {
        format!(
            "Name:\tx\nSigQ:\t1/2\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\n\
             SigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\nCapInh:\t0\n"
        )
        .into_bytes()
    }

    #[test]
    fn only_signals_that_end_the_program_count() {
        let (alarm, quit, child) = (bit(libc::SIGALRM), bit(libc::SIGQUIT), bit(libc::SIGCHLD));
        assert!(!ends(&status(0, 0, 0, 0, 0)));
        assert!(ends(&status(KILL, 0, 0, 0, 0)));
        assert!(ends(&status(0, KILL, !0, 0, 0)));
        assert!(!ends(&status(0, alarm, 0, 0, alarm)), "it has a handler");
        assert!(!ends(&status(0, child, 0, 0, 0)), "its default is to do nothing");
        assert!(ends(&status(0, quit, 0, 0, alarm)), "it dumps core");
        assert!(!ends(&status(0, quit, quit, 0, 0)), "it is blocked");
        assert!(!ends(&status(quit, 0, 0, quit, 0)), "it is ignored");
    }

    #[test]
    fn who_cannot_be_looked_at_counts_as_killed() {
        assert!(is_killed(0));
        assert!(is_killed(u32::MAX));
        assert!(ends(b"Name:\tx\n"));
        let this = u32::try_from(nix::unistd::gettid().as_raw()).unwrap();
        assert!(!is_killed(this));
    }
}
