//! Handing things to a reactor's thread: a bounded queue and a bell that rings only for a sleeper.
//!
//! Any number of [`Postman`] clones post, one thread owns the [`Mailbox`]. Invariant: a message posted while
//! `sleeping` is set rings the bell, or the owner saw the message in [`Mailbox::prepare_sleep`].

use std::{
    os::fd::{AsFd, AsRawFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering, fence},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
};

use nix::{
    errno::Errno,
    sys::eventfd::{EfdFlags, EventFd},
};

#[derive(Debug)]
struct Bell {
    sleeping: AtomicBool,
    /// Set after each ring: the descriptor is to be emptied.
    rung: AtomicBool,
    descriptor: EventFd,
}

/// The posting end.
#[derive(Debug)]
pub struct Postman<T> {
    queue: SyncSender<T>,
    bell: Arc<Bell>,
}

impl<T> Clone for Postman<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), bell: self.bell.clone() }
    }
}

/// The owner's end.
#[derive(Debug)]
pub struct Mailbox<T> {
    queue: Receiver<T>,
    bell: Arc<Bell>,
    /// Taken out by `prepare_sleep`, given out by `take`.
    first: Option<T>,
}

/// A mailbox for `capacity` messages (at least one).
///
/// # Errors
/// The system's number when there is no eventfd to be had.
pub fn mailbox<T>(capacity: usize) -> Result<(Postman<T>, Mailbox<T>), Errno> {
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let descriptor = EventFd::from_flags(flags)?;
    let (sleeping, rung) = (AtomicBool::new(false), AtomicBool::new(false));
    let bell = Arc::new(Bell { sleeping, rung, descriptor });
    let (sender, receiver) = sync_channel(capacity.max(1));
    let postman = Postman { queue: sender, bell: bell.clone() };
    Ok((postman, Mailbox { queue: receiver, bell, first: None }))
}

impl<T> Postman<T> {
    /// Posts `message`; never blocks.
    ///
    /// # Errors
    /// Gives the message back when the mailbox is full or its owner is gone.
    pub fn post(&self, message: T) -> Result<(), T> {
        self.queue.try_send(message).map_err(|error| match error {
            TrySendError::Full(message) | TrySendError::Disconnected(message) => message,
        })?;
        // Pairs with the fence in `prepare_sleep`: either we see the flag or the owner sees the message.
        fence(Ordering::SeqCst);
        if self.bell.sleeping.load(Ordering::Relaxed) {
            // Only a counter near 2^64 would refuse; then the descriptor is readable as it is.
            let _ = self.bell.descriptor.write(1);
            // Only now: a ring that is not noted yet wakes the owner once more, one noted too early would do so for ever.
            self.bell.rung.store(true, Ordering::Release);
        }
        Ok(())
    }
}

impl<T> Mailbox<T> {
    /// The next message, if any.
    pub fn take(&mut self) -> Option<T> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        self.queue.try_recv().ok()
    }

    /// Announces sleep. False if a message is there; take it instead.
    pub fn prepare_sleep(&mut self) -> bool {
        self.bell.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.first.is_none() {
            self.first = self.queue.try_recv().ok();
        }
        self.first.is_none()
    }

    /// Announces that the owner polls again.
    pub fn end_sleep(&mut self) {
        self.bell.sleeping.store(false, Ordering::Relaxed);
        // Most sleeps end for another reason; then a system call is spared.
        if self.bell.rung.swap(false, Ordering::Acquire) {
            let _ = self.bell.descriptor.read();
        }
    }

    /// Polls readable when a message came during sleep.
    #[must_use]
    pub fn wake_descriptor(&self) -> RawFd {
        self.bell.descriptor.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_full_mailbox_gives_the_message_back() {
        let (postman, mut mailbox) = mailbox(2).unwrap();
        assert_eq!((postman.post(1), postman.post(2), postman.post(3)), (Ok(()), Ok(()), Err(3)));
        assert_eq!(mailbox.take(), Some(1));
        assert_eq!(postman.clone().post(3), Ok(()));
        assert_eq!((mailbox.take(), mailbox.take(), mailbox.take()), (Some(2), Some(3), None));
        drop(mailbox);
        assert_eq!(postman.post(4), Err(4));
    }

    #[test]
    fn a_message_seen_while_falling_asleep_is_kept_in_order() {
        let (postman, mut mailbox) = mailbox(4).unwrap();
        postman.post(1).unwrap();
        postman.post(2).unwrap();
        assert!(!mailbox.prepare_sleep());
        mailbox.end_sleep();
        assert_eq!((mailbox.take(), mailbox.take()), (Some(1), Some(2)));
        assert!(mailbox.prepare_sleep());
        postman.post(3).unwrap();
        assert!(mailbox.bell.descriptor.read().is_ok(), "the bell rang");
    }

    #[test]
    fn a_bell_is_emptied_after_each_ring_and_rings_again() {
        let (postman, mut mailbox) = mailbox(4).unwrap();
        for number in 1..=3 {
            assert!(mailbox.prepare_sleep());
            mailbox.end_sleep();
            assert!(mailbox.prepare_sleep());
            postman.post(number).unwrap();
            let bell = mailbox.bell.clone();
            assert!(bell.rung.load(Ordering::Relaxed), "it rang {number} times");
            mailbox.end_sleep();
            assert_eq!(bell.descriptor.read(), Err(Errno::EAGAIN), "nothing is left to wake it");
            assert_eq!(mailbox.take(), Some(number));
        }
    }

    #[test]
    fn a_ring_that_was_noted_late_wakes_once_more_and_no_more() {
        let (_postman, mut mailbox) = mailbox::<u8>(4).unwrap();
        let bell = mailbox.bell.clone();
        bell.descriptor.write(1).unwrap();
        mailbox.end_sleep();
        bell.rung.store(true, Ordering::Release);
        mailbox.end_sleep();
        assert_eq!(bell.descriptor.read(), Err(Errno::EAGAIN));
    }
}
