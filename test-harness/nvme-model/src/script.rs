//! Faults as text: `[io|admin|any|queue=N] [read|write|flush|opcode=N] [skip=N] [times=N] [per-mille=N] [after-ms=N] FAULT`.
//!
//! A fault is `lose`, `stick`, `duplicate`, `cid`, `free-slot`, `wrong-queue`, `wrong-phase`, `head`, `media-error`,
//! `write-fault`, `torn-write`, `fatal`, `surprise`, `removal`, `stop`, `delay=MS`, `reorder=N` `events=N`
//! or `garbage=SEED`.

use std::{fmt, time::Duration};

use crate::{
    command::nvm,
    faults::{Fault, FaultPlan, QueueChoice, Rule},
    status::Status,
};

/// A word that is none of the above, or a line without a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptError {
    line: String,
    word: Option<String>,
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.word {
            Some(word) => write!(f, "fault `{}`: `{word}` is not understood", self.line),
            None => write!(f, "fault `{}`: says where, not what", self.line),
        }
    }
}

impl std::error::Error for ScriptError {}

/// The plan of these lines.
///
/// # Errors
/// [`ScriptError`] for the first line that is wrong.
pub fn plan(lines: &[String], seed: u64) -> Result<FaultPlan, ScriptError> {
    let mut plan = FaultPlan::with_seed(seed);
    for line in lines {
        plan.add(rule(line)?);
    }
    Ok(plan)
}

/// One line.
///
/// # Errors
/// [`ScriptError`].
pub fn rule(line: &str) -> Result<Rule, ScriptError> {
    let mut rule = Rule::next_io(Fault::Lose);
    let mut has_fault = false;
    for word in line.split_whitespace() {
        if place(word, &mut rule).is_some() {
            continue;
        }
        let fault = fault(word);
        rule.fault = fault
            .ok_or_else(|| ScriptError { line: line.to_owned(), word: Some(word.to_owned()) })?;
        has_fault = true;
    }
    if has_fault { Ok(rule) } else { Err(ScriptError { line: line.to_owned(), word: None }) }
}

fn place(word: &str, rule: &mut Rule) -> Option<()> {
    match word.split_once('=') {
        None => match word {
            "any" => rule.queue = QueueChoice::Any,
            "io" => rule.queue = QueueChoice::Io,
            "admin" => rule.queue = QueueChoice::One(0),
            "read" => rule.opcode = Some(nvm::READ),
            "write" => rule.opcode = Some(nvm::WRITE),
            "flush" => rule.opcode = Some(nvm::FLUSH),
            _ => return None,
        },
        Some(("queue", number)) => rule.queue = QueueChoice::One(number.parse().ok()?),
        Some(("opcode", number)) => rule.opcode = Some(number.parse().ok()?),
        Some(("skip", number)) => rule.skip = number.parse().ok()?,
        Some(("times", number)) => rule.times = number.parse().ok()?,
        Some(("per-mille", number)) => *rule = rule.sometimes(number.parse().ok()?),
        Some(("after-ms", number)) => rule.after = Duration::from_millis(number.parse().ok()?),
        Some(_) => return None,
    }
    Some(())
}

fn fault(word: &str) -> Option<Fault> {
    Some(match word.split_once('=') {
        None => match word {
            "lose" => Fault::Lose,
            "stick" => Fault::Stick,
            "duplicate" => Fault::Duplicate,
            "cid" => Fault::CidOutOfRange,
            "free-slot" => Fault::FreeSlot,
            "wrong-queue" => Fault::WrongQueue,
            "wrong-phase" => Fault::WrongPhase,
            "head" => Fault::ImpossibleHead,
            "media-error" => Fault::Status(Status::UNRECOVERED_READ),
            "write-fault" => Fault::Status(Status::WRITE_FAULT),
            "torn-write" => Fault::TornWrite,
            "fatal" => Fault::Fatal,
            "surprise" => Fault::SurpriseRemoval,
            "removal" => Fault::HotRemoval,
            "stop" => Fault::QueueStops,
            _ => return None,
        },
        Some(("delay", number)) => Fault::Delay(Duration::from_millis(number.parse().ok()?)),
        Some(("reorder", number)) => Fault::Reorder(number.parse().ok()?),
        Some(("garbage", number)) => Fault::Garbage(number.parse().ok()?),
        Some(("events", number)) => Fault::EventStorm(number.parse().ok()?),
        Some(_) => return None,
    })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_line_is_a_rule_and_nonsense_is_named() {
        let read = rule("queue=2 read skip=3 times=4 delay=50").unwrap();
        let fault = Fault::Delay(Duration::from_millis(50));
        let expected = Rule { queue: QueueChoice::One(2), ..Rule::next_of(nvm::READ, fault) };
        assert_eq!(read, expected.skipping(3).times(4));
        assert_eq!(rule("any per-mille=5 lose").unwrap().per_mille, 5);
        assert!(rule("io skip=x lose").unwrap_err().to_string().contains("`skip=x`"));
        assert!(rule("io read").unwrap_err().to_string().contains("not what"));
    }
}
