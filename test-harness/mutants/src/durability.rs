//! What was acknowledged is kept, and what cannot be kept is told.

use crate::{Mutant, Proof, TestTarget};

const CLIENT: TestTarget = TestTarget::library("sheen-client");
const NODE: TestTarget = TestTarget::library("sheen-node");

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "nothing-is-sent-again",
        story: "what an OST of another incarnation may have lost is forgotten by the client",
        file: "appliance/client/src/turns.rs",
        replacements: &[(
            "for change in kept.into_values().rev() {",
            "for change in kept.into_values().rev().take(0) {",
        )],
        proofs: &[
            Proof::Test(
                CLIENT,
                "durability_test::what_an_ost_forgot_is_there_again_when_fsync_says_so",
            ),
            Proof::Test(
                CLIENT,
                "turns::test::a_new_incarnation_gets_everything_in_order_before_anything_else",
            ),
        ],
    },
    Mutant {
        name: "reply-of-another-incarnation",
        story: "the reply of an OST that is not the one the connection was made to counts",
        file: "appliance/client/src/unstable.rs",
        replacements: &[(
            "if target.incarnation != incarnation {\n            return Err(room);",
            "if target.incarnation != incarnation && number == 0 {\n            return Err(room);",
        )],
        proofs: &[Proof::Test(
            CLIENT,
            "turns::test::a_new_incarnation_gets_everything_in_order_before_anything_else",
        )],
    },
    Mutant {
        name: "fsync-skips-a-target",
        story: "fsync asks the first OST of a file alone",
        file: "appliance/client/src/sync.rs",
        replacements: &[(
            "targets.iter().filter(|(ost, _)| seen.insert(*ost)) {",
            "targets.iter().filter(|(ost, _)| seen.insert(*ost)).take(1) {",
        )],
        proofs: &[
            Proof::Test(
                CLIENT,
                "durability_test::what_an_ost_forgot_is_there_again_when_fsync_says_so",
            ),
            Proof::Test(
                CLIENT,
                "scenarios::a_sync_asks_what_was_written_since_the_last_and_everything_if_others_may_have_written",
            ),
        ],
    },
    Mutant {
        name: "lease-goes-before-durable",
        story: "DATA is given back before what was written under it is durable",
        file: "appliance/client/src/revoke.rs",
        replacements: &[("        self.make_durable(inode);\n", "")],
        proofs: &[Proof::Test(
            CLIENT,
            "durability_test::what_was_written_is_durable_before_the_lease_on_it_goes_to_others",
        )],
    },
    Mutant {
        name: "sent-for-a-later-session",
        story: "what was queued while a session ended is sent under the next one",
        file: "appliance/client/src/targets.rs",
        replacements: &[(
            "&& !identity.covers(server) {",
            "&& !identity.covers(server) && false {",
        )],
        proofs: &[Proof::Test(
            CLIENT,
            "durability_test::a_piece_that_was_queued_when_the_session_ended_is_never_sent_for_the_next_one",
        )],
    },
    Mutant {
        name: "sent-again-for-a-later-session",
        story: "what was kept for a session that ended is sent again under the next one",
        file: "appliance/client/src/resend.rs",
        replacements: &[(
            "if !identity.covers(change.server) {",
            "if !identity.covers(change.server) && false {",
        )],
        proofs: &[Proof::Test(
            CLIENT,
            "durability_test::nothing_is_sent_again_for_a_session_that_ended",
        )],
    },
    Mutant {
        name: "loss-told-twice",
        story: "an open file is told again and again of one loss",
        file: "appliance/client/src/write_errors.rs",
        replacements: &[(
            "cursor.0.swap(errors.noted, Ordering::Relaxed)",
            "cursor.0.load(Ordering::Relaxed)",
        )],
        proofs: &[
            Proof::Test(
                CLIENT,
                "write_errors::test::a_loss_is_told_once_to_each_open_file_and_to_the_next_if_nobody_knew",
            ),
            Proof::Test(
                CLIENT,
                "durability_test::what_cannot_be_sent_again_is_told_once_to_each_open_file_and_dropped_from_caches",
            ),
        ],
    },
    Mutant {
        name: "loss-told-to-one-alone",
        story: "of several open files the first that asks is told of a loss, and no other",
        file: "appliance/client/src/write_errors.rs",
        replacements: &[(
            "cursor.0.swap(errors.noted, Ordering::Relaxed) == errors.noted {",
            "cursor.0.swap(errors.noted, Ordering::Relaxed) == errors.noted || errors.told == errors.noted {",
        )],
        proofs: &[Proof::Test(
            CLIENT,
            "write_errors::test::a_loss_is_told_once_to_each_open_file_and_to_the_next_if_nobody_knew",
        )],
    },
    Mutant {
        name: "applied-is-durable",
        story: "an OST says that what it applied is durable",
        file: "appliance/node/src/ost/dispatch.rs",
        replacements: &[(
            "target.map_or(0, Target::durable_sequence);",
            "target.map_or(0, Target::changes_applied);",
        )],
        proofs: &[
            Proof::Test(
                NODE,
                "ost::test::durability::changes_are_numbered_and_durable_when_a_flush_covered_them",
            ),
            Proof::Test(
                NODE,
                "ost::test::durability::no_loss_of_power_takes_what_was_said_to_be_durable",
            ),
        ],
    },
    Mutant {
        name: "reply-without-a-number",
        story: "an OST answers a change before the change has a number: no client keeps it",
        file: "appliance/node/src/ost/dispatch.rs",
        replacements: &[(
            "reply.transaction = TransactionNumber(change);",
            "reply.transaction = TransactionNumber(change.saturating_sub(1));",
        )],
        proofs: &[Proof::Test(
            NODE,
            "ost::test::durability::changes_are_numbered_and_durable_when_a_flush_covered_them",
        )],
    },
    Mutant {
        name: "fenced-before-durable",
        story: "a fence is told before what the client changed is durable",
        file: "appliance/node/src/ost/fencing.rs",
        replacements: &[(
            "&& self.is_durable(target, last)\n",
            "&& (self.is_durable(target, last) || last > 0)\n",
        )],
        proofs: &[Proof::Test(
            NODE,
            "ost::test::durability::a_fence_is_told_when_what_the_client_changed_survives_a_loss_of_power",
        )],
    },
];
