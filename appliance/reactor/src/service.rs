//! What a reactor drives.

use std::os::fd::RawFd;

use sheen_types::Tick;

/// Something that lives on a reactor's thread and has work now and then.
///
/// The order of calls: `turn` any number of times; then perhaps `prepare_sleep`, sleep, `end_sleep`, and again. A
/// reactor ends when every service is finished.
pub trait Service {
    /// Does what there is to do, bounded by budgets of its own, and never blocks. Returns how much it did; 0 means
    /// that nothing happened and nothing is waiting but for a wake descriptor or the next deadline.
    fn turn(&mut self, now: Tick) -> usize;

    /// Announces that the thread is about to sleep: from now on peers must wake it. False if something came
    /// meanwhile or the service must be polled; `end_sleep` follows in both cases.
    fn prepare_sleep(&mut self) -> bool;

    /// Announces that the thread polls again.
    fn end_sleep(&mut self);

    /// Appends the descriptors that poll readable when a turn would find work.
    fn wake_descriptors(&self, descriptors: &mut Vec<RawFd>);

    /// Rises whenever `wake_descriptors` would answer differently.
    fn wake_generation(&self) -> u64;

    /// When a turn is due although no descriptor is readable.
    fn next_deadline(&self) -> Option<Tick>;

    /// Whether the service has ended and needs no turn any more.
    fn is_finished(&self) -> bool;
}
