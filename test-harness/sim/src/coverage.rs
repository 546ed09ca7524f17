//! Which kinds of faults happened, and how often: a kind that never happened was not tested.

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The node's process is killed.
    Kill,
    /// The node loses power while clients live on.
    PowerCut,
    /// The MDT begins anew while the OSTs serve on.
    MdtRestart,
    /// The OSTs begin anew while the MDT serves on.
    OstRestart,
    /// The node's process does not run for a while.
    NodePause,
    /// A client ends its connections and makes new ones.
    HangUp,
    /// A client goes away without a word, and does not come back.
    DeadClient,
    /// A client stands still for long, at times for longer than its lease.
    ClientPause,
    /// The link of a client is cut for so long.
    LongCut,
    /// Nothing a client sends arrives for a while.
    CutUp,
    /// Nothing a client is sent arrives for a while.
    CutDown,
    /// Both.
    CutBoth,
    /// A device command is to be submitted again.
    Retry,
    /// A device command takes seconds.
    SlowCommand,
    /// The device zone of the MDT completes nothing for a while.
    MdtStall,
    /// The device zone of an OST completes nothing for a while.
    OstStall,
    /// A read meets blocks that are lost.
    MediaLost,
    /// An OST has no space left.
    OstFull,
    /// The metadata has none.
    MdtFull,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Kill,
        Self::PowerCut,
        Self::MdtRestart,
        Self::OstRestart,
        Self::NodePause,
        Self::HangUp,
        Self::DeadClient,
        Self::ClientPause,
        Self::LongCut,
        Self::CutUp,
        Self::CutDown,
        Self::CutBoth,
        Self::Retry,
        Self::SlowCommand,
        Self::MdtStall,
        Self::OstStall,
        Self::MediaLost,
        Self::OstFull,
        Self::MdtFull,
    ];

    /// Its name, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kills",
            Self::PowerCut => "power cuts",
            Self::MdtRestart => "restarts of the MDT alone",
            Self::OstRestart => "restarts of the OSTs alone",
            Self::NodePause => "node pauses",
            Self::HangUp => "hang-ups",
            Self::DeadClient => "dead clients",
            Self::ClientPause => "client pauses",
            Self::LongCut => "links cut for long",
            Self::CutUp => "links cut to the node",
            Self::CutDown => "links cut to a client",
            Self::CutBoth => "links cut both ways",
            Self::Retry => "commands to retry",
            Self::SlowCommand => "slow commands",
            Self::MdtStall => "MDT device stalls",
            Self::OstStall => "OST device stalls",
            Self::MediaLost => "reads of lost media",
            Self::OstFull => "full OSTs",
            Self::MdtFull => "full MDTs",
        }
    }

    fn index(self) -> usize {
        Self::ALL.iter().position(|&kind| kind == self).unwrap_or(0)
    }
}

/// How often each kind happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage([u64; Fault::ALL.len()]);

impl Coverage {
    /// One more.
    pub fn count(&mut self, fault: Fault) {
        self.0[fault.index()] += 1;
    }

    /// How many.
    #[must_use]
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault.index()]
    }

    /// Kinds that never happened.
    pub fn missing(&self) -> impl Iterator<Item = Fault> {
        Fault::ALL.into_iter().filter(|&fault| self.of(fault) == 0)
    }
}

impl std::ops::AddAssign for Coverage {
    fn add_assign(&mut self, other: Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }
}

impl std::fmt::Display for Coverage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, fault) in Fault::ALL.into_iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{} {}", self.of(fault), fault.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_kind_that_never_happened_is_missing() {
        let mut coverage = Coverage::default();
        assert_eq!(coverage.missing().count(), Fault::ALL.len());
        for fault in Fault::ALL {
            coverage.count(fault);
        }
        assert_eq!(coverage.missing().count(), 0);
        coverage += coverage;
        assert!(Fault::ALL.iter().all(|&fault| coverage.of(fault) == 2));
    }
}
