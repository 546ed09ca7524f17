//! The store: exact replacements in its sources, which the explorer of crash states must find.
//!
//! Each is a mistake somebody could make in one line, against one rule of the order of writes. The text replaced must be
//! found, once: when the store changes, so does this list.

use crate::{Mutant, Proof};

const CRASHES: &[Proof] = &[Proof::CrashStates];

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "ack-before-flush",
        story: "a sync is acknowledged at once: what it covers is lost with the power",
        file: "appliance/store/src/store.rs",
        replacements: &[("self.await_flush(number);", "self.end_unchanged(number, commands);")],
        proofs: CRASHES,
    },
    Mutant {
        name: "durable-ack-before-flush",
        story: "a durable write is acknowledged when it completed",
        file: "appliance/store/src/completion.rs",
        replacements: &[(
            "if self.operations.get(number).durable {",
            "if self.operations.get(number).durable && number == u32::MAX {",
        )],
        proofs: CRASHES,
    },
    Mutant {
        name: "record-before-data",
        story: "records count as durable, with their data, when they are written: recovery believes one whose data is not \
                there",
        file: "appliance/store/src/log.rs",
        replacements: &[("self.oldest_incomplete().sequence - 1", "self.recorded_through")],
        proofs: CRASHES,
    },
    Mutant {
        name: "record-without-data",
        story: "recovery believes the journal's last records without a look at their data",
        file: "appliance/store/src/verification.rs",
        replacements: &[("= found != Some(expected);", "= found != Some(expected) && false;")],
        proofs: CRASHES,
    },
    Mutant {
        name: "free-before-flush",
        story: "freed blocks are used again before a flush covers what freed them: the old mapping comes back to new \
                content",
        file: "appliance/store/src/completion.rs",
        replacements: &[(
            "let quarantine = &mut self.quarantine;\n        let freed = |gone: Gone| quarantine_blocks(quarantine, data_first, gone);",
            "let allocator = &mut self.allocator;\n        let freed = |gone: Gone| {\n            if gone.blocks > 0 {\n                allocator.release(Span { first: gone.place - data_first, blocks: gone.blocks });\n            }\n        };",
        )],
        proofs: CRASHES,
    },
    Mutant {
        name: "free-with-flush-under-way",
        story: "a flush frees what was freed after it was submitted, too",
        file: "appliance/store/src/quarantine.rs",
        replacements: &[(
            "let spans = std::mem::take(&mut self.flushing);",
            "let mut spans = std::mem::take(&mut self.flushing);\n            spans.append(&mut self.open);",
        )],
        proofs: CRASHES,
    },
    Mutant {
        name: "missing-second-flush",
        story: "the anchor's second copy is written without a flush behind the first: both can be torn",
        file: "appliance/store/src/completion.rs",
        replacements: &[(
            "self.flusher.wait_for_switch();",
            "self.on_switch_flushed(0, commands);",
        )],
        proofs: CRASHES,
    },
    Mutant {
        name: "mark-before-flush",
        story: "a mark says of what completed that it is durable, before a flush: after a loss of power recovery believes it",
        file: "appliance/store/src/log.rs",
        replacements: &[(
            "let sealed = self.writer.mark(VOID_BLOCKS).ok().flatten()?;",
            "self.writer.set_durable(self.completed_through());\n        let sealed = self.writer.mark(VOID_BLOCKS).ok().flatten()?;",
        )],
        proofs: CRASHES,
    },
    Mutant {
        name: "reordered-superblock",
        story: "the anchor names a checkpoint that is not flushed",
        file: "appliance/store/src/switch.rs",
        replacements: &[
            (
                "switch.state = State::Flush(0);\n        self.flusher.wait_for_switch();",
                "switch.state = State::Flush(0);",
            ),
            (
                "            self.end_delta(role);",
                "            self.end_delta(role);\n            if self.switch.state == State::Flush(0) {\n                self.on_switch_flushed(0, commands);\n            }",
            ),
        ],
        proofs: CRASHES,
    },
];
