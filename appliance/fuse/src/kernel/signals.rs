//! Whether a thread that waits in the kernel for an answer has been killed, or a process is gone.
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

/// A thread, looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It goes on when it is let go; it is of this process.
    Lives {
        /// The number of the process.
        process: u32,
    },
    /// It will end as soon as it is let go.
    Ends,
    /// It cannot be looked at, or is gone.
    Unseen,
}

/// Looks at a thread.
pub(crate) fn fate(thread: u32) -> Fate {
    if thread == 0 {
        return Fate::Unseen;
    }
    // The number of a thread leads to it also where listings show processes only.
    std::fs::read(format!("/proc/{thread}/status")).map_or(Fate::Unseen, |status| fate_in(&status))
}

/// Whether a process is gone, or on its way out. One that was killed while it has requests under way waits for them in
/// the kernel, and its signals are taken by then.
pub(crate) fn is_over(process: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return true };
    threads.flatten().all(|thread| {
        let stat = std::fs::read(thread.path().join("stat"));
        stat.map_or(true, |stat| is_exiting(&stat))
    })
}

/// Whether the flags in a `stat` of `/proc` say that the thread is exiting (PF_EXITING).
fn is_exiting(stat: &[u8]) -> bool {
    const EXITING: u64 = 4;
    // The name in parentheses may hold anything; behind it: state, five numbers, flags.
    let behind = stat.iter().rposition(|byte| *byte == b')').map_or(&[][..], |at| &stat[at + 1..]);
    let text = std::str::from_utf8(behind).unwrap_or_default();
    let flags = text.split_ascii_whitespace().nth(6).and_then(|flags| flags.parse::<u64>().ok());
    flags.is_none_or(|flags| flags & EXITING != 0)
}

/// What a `status` of `/proc` says of its thread.
fn fate_in(status: &[u8]) -> Fate {
    let (mut masks, mut process) = ([None; 5], None);
    for line in status.split(|byte| *byte == b'\n') {
        for (mask, name) in
            masks.iter_mut().zip(["SigPnd:", "ShdPnd:", "SigBlk:", "SigIgn:", "SigCgt:"])
        {
            if let Some(value) = line.strip_prefix(name.as_bytes()) {
                *mask = parse(value);
            }
        }
        if let Some(value) = line.strip_prefix(b"Tgid:") {
            process = std::str::from_utf8(value).ok().and_then(|value| value.trim().parse().ok());
        }
    }
    let ([Some(own), Some(shared), Some(blocked), Some(ignored), Some(caught)], Some(process)) =
        (masks, process)
    else {
        return Fate::Unseen;
    };
    let pending = own | shared;
    let ends = pending & KILL != 0 || pending & !(blocked | ignored | caught | HARMLESS) != 0;
    if ends { Fate::Ends } else { Fate::Lives { process } }
}

fn parse(value: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(value).ok()?.trim(), 16).ok()
}

#[cfg(test)]
mod test {
    use super::*;

    fn status(own: u64, shared: u64, blocked: u64, ignored: u64, caught: u64) -> Vec<u8> {
        format!(
            "Name:\tx\nTgid:\t7\nSigQ:\t1/2\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\n\
             SigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\nCapInh:\t0\n"
        )
        .into_bytes()
    }

    fn ends(status: &[u8]) -> bool {
        let fate = fate_in(status);
        assert!(fate == Fate::Ends || fate == Fate::Lives { process: 7 }, "{fate:?}");
        fate == Fate::Ends
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
    fn threads_that_are_there_are_seen_and_others_are_not() {
        assert_eq!((fate(0), fate(u32::MAX)), (Fate::Unseen, Fate::Unseen));
        assert_eq!(fate_in(b"Name:\tx\n"), Fate::Unseen);
        let this = u32::try_from(nix::unistd::gettid().as_raw()).unwrap();
        let process = std::process::id();
        assert_eq!(fate(this), Fate::Lives { process });
        assert!(!is_over(process) && is_over(u32::MAX));
    }

    #[test]
    fn a_process_is_over_when_all_its_threads_are_exiting() {
        assert!(!is_exiting(b"12 (a) b) c) D 1 12 12 0 -1 4194304 0 0"));
        assert!(is_exiting(b"12 (x) D 1 12 12 0 -1 4194308 0 0"));
        assert!(is_exiting(b"12 (x"));
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(!is_over(child.id()));
        child.kill().unwrap();
        let started = std::time::Instant::now();
        // It is a zombie now: nobody has waited for it.
        while !is_over(child.id()) && started.elapsed().as_secs() < 10 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(is_over(child.id()));
        child.wait().unwrap();
    }
}
