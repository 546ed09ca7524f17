//! Instructions of a run, told apart by the stage of the path they belong to.
//!
//! From a file of callgrind: each line's cost is that of the source file it came from, also where it was inlined. What belongs
//! to no stage by itself (the standard library, the C library's copies) is its callers', in proportion.

use std::collections::HashMap;

/// A stage of a request's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Which blocks: objects, chunks, claims, free blocks.
    Index,
    /// Sums of data and records.
    Checksum,
    /// Records, batches, flushes, checkpoints.
    Journal,
    /// Device commands, and the device in memory.
    Device,
    /// Frames and bodies, and the fabric with its copy of the payload.
    Message,
    /// The service around them.
    Rest,
}

/// All stages and their names.
pub const STAGES: [(Stage, &str); 6] = [
    (Stage::Index, "index"),
    (Stage::Checksum, "checksum"),
    (Stage::Journal, "journal"),
    (Stage::Device, "device"),
    (Stage::Message, "message"),
    (Stage::Rest, "rest"),
];

/// Parts of a path that decide the stage; the first that is found does.
const PLACES: [(&str, Stage); 17] = [
    ("crc-fast", Stage::Checksum),
    ("types/src/checksum.rs", Stage::Checksum),
    ("ost/checksum.rs", Stage::Checksum),
    ("store/src/binding.rs", Stage::Checksum),
    ("journal/src/", Stage::Journal),
    ("appliance/store/src/record.rs", Stage::Journal),
    ("appliance/store/src/log.rs", Stage::Journal),
    ("appliance/store/src/pump.rs", Stage::Journal),
    ("appliance/store/src/flusher.rs", Stage::Journal),
    ("appliance/store/src/switch.rs", Stage::Journal),
    ("appliance/store/src/checkpoint.rs", Stage::Journal),
    ("appliance/store/src/", Stage::Index),
    ("nvme/src/", Stage::Device),
    ("ost/device.rs", Stage::Device),
    ("wire/src/", Stage::Message),
    ("store/peer.rs", Stage::Message),
    // Everything else of ours; libraries lie elsewhere.
    ("/src/", Stage::Rest),
];

fn stage_of(file: &str) -> Option<Stage> {
    let is_library = file.starts_with("/rustc/")
        || file.contains("/registry/") && !file.contains("crc-fast")
        || !file.contains("/src/");
    let found = PLACES.iter().find(|(part, _)| file.contains(part));
    found.filter(|_| !is_library).map(|&(_, stage)| stage)
}

/// Instructions per stage, in the order of [`STAGES`].
pub type Split = [f64; STAGES.len()];

/// Calls from somewhere to a function without a stage, and what they cost in all.
#[derive(Debug, Clone, Copy)]
struct Edge {
    from: u32,
    stage: Option<Stage>,
    cost: f64,
}

#[derive(Debug, Default)]
struct Reader {
    files: HashMap<u32, String>,
    split: Split,
    /// Own cost of functions without a stage.
    unplaced: HashMap<u32, f64>,
    callers: HashMap<u32, Vec<Edge>>,
    function: u32,
    /// The file the function stands in, and that of the line.
    home: u32,
    file: u32,
    callee: u32,
    is_call: bool,
}

/// Reads a file of callgrind.
#[must_use]
pub fn split(text: &str) -> Split {
    let mut reader = Reader::default();
    text.lines().for_each(|line| reader.line(line));
    reader.finish()
}

fn index_of(stage: Stage) -> usize {
    STAGES.iter().position(|&(other, _)| other == stage).unwrap_or(0)
}

impl Reader {
    fn line(&mut self, line: &str) {
        let Some((key, value)) = line.split_once('=') else { return self.cost(line) };
        match key {
            "fl" => {
                self.home = self.file_number(value);
                self.file = self.home;
            }
            "fi" | "fe" => self.file = self.file_number(value),
            "fn" => self.function = number(value).0,
            "cfn" => self.callee = number(value).0,
            "cfi" | "cfl" => drop(self.file_number(value)),
            "calls" => self.is_call = true,
            _ => {}
        }
    }

    fn file_number(&mut self, value: &str) -> u32 {
        let (number, name) = number(value);
        if let Some(name) = name {
            self.files.insert(number, name.to_owned());
        }
        number
    }

    /// The stage of the line at hand: its file's, or its function's.
    fn stage(&self) -> Option<Stage> {
        let of = |file| self.files.get(&file).and_then(|file| stage_of(file));
        of(self.file).or_else(|| of(self.home))
    }

    fn cost(&mut self, line: &str) {
        let begins =
            line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first));
        let cost = line.split_whitespace().nth(1).filter(|_| begins);
        let Some(cost) = cost.and_then(|cost| cost.parse::<f64>().ok()) else { return };
        let stage = self.stage();
        if std::mem::take(&mut self.is_call) {
            let edge = Edge { from: self.function, stage, cost };
            self.callers.entry(self.callee).or_default().push(edge);
        } else if let Some(stage) = stage {
            self.split[index_of(stage)] += cost;
        } else {
            *self.unplaced.entry(self.function).or_default() += cost;
        }
    }

    fn finish(mut self) -> Split {
        for (function, cost) in std::mem::take(&mut self.unplaced) {
            self.hand_up(function, cost, 0);
        }
        self.split
    }

    /// Gives a cost to the callers of a function, and to theirs as long as they have no stage.
    fn hand_up(&mut self, function: u32, cost: f64, depth: u32) {
        let edges = self.callers.get(&function).cloned().unwrap_or_default();
        let all: f64 = edges.iter().map(|edge| edge.cost).sum();
        if depth > 12 || all <= 0.0 {
            self.split[index_of(Stage::Rest)] += cost;
            return;
        }
        for Edge { from, stage, cost: part } in edges {
            let share = cost * part / all;
            match stage {
                Some(stage) => self.split[index_of(stage)] += share,
                None => self.hand_up(from, share, depth + 1),
            }
        }
    }
}

/// A name as callgrind writes it, `(number) name` or `(number)`.
fn number(value: &str) -> (u32, Option<&str>) {
    let (number, name) = value.split_once(')').unwrap_or((value, ""));
    let number = number.trim_start_matches('(').parse().unwrap_or(0);
    (number, Some(name.trim()).filter(|name| !name.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_its_callers_and_inlined_lines_are_of_their_file() {
        let text = "\
            fl=(1) appliance/store/src/chunk.rs\nfn=(1) chunk\n5 10\nfi=(2) /rustc/x/library/core/src/slice.rs\n7 3\n\
            cfn=(9) memcpy\ncalls=1 0\n8 40\n\
            fl=(3) nvme/src/ram.rs\nfn=(2) poll\n1 5\nfi=(4) appliance/journal/src/writer.rs\n+1 6\n\
            cfn=(9)\ncalls=3 0\n* 120\n\
            fl=(5) ./string/memmove.S\nfn=(9)\n1 160\n";
        let split = split(text);
        assert_eq!(split[index_of(Stage::Index)], 10.0 + 3.0 + 40.0);
        assert_eq!(split[index_of(Stage::Device)], 5.0);
        assert_eq!(split[index_of(Stage::Journal)], 6.0 + 120.0);
    }
}
