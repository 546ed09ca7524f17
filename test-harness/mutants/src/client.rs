//! The client: sessions, caches and their end, threads.

use crate::{Mutant, Proof, TestTarget};

const CLIENT: TestTarget = TestTarget::library("sheen-client");

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "another-node-is-taken",
        story: "a node that was formatted anew at the same address is taken for ours",
        file: "appliance/client/src/session.rs",
        replacements: &[("let astray = *home != found;", "let astray = *home != found && false;")],
        proofs: &[Proof::TestOrHang(
            CLIENT,
            "lease_scenarios::another_node_at_the_same_address_is_refused_and_ours_is_taken_up_again",
        )],
    },
    Mutant {
        name: "only-the-first-page-of-osts",
        story: "a client asks for no OSTs beyond those of the answer to Connect",
        file: "appliance/client/src/session.rs",
        replacements: &[(
            "while std::mem::take(&mut reply.more_osts) {",
            "while std::mem::take(&mut reply.more_osts) && false {",
        )],
        proofs: &[Proof::Test(
            CLIENT,
            "scenarios::more_osts_than_fit_the_answer_to_connect_are_asked_for",
        )],
    },
    Mutant {
        name: "kernel-believes-for-the-lease",
        story: "the kernel keeps attributes to the end of the lease: longer than others wait for a client that was killed",
        file: "appliance/client/src/sweep.rs",
        replacements: &[(
            "self.lease_left().min(self.session.after_hang_up())",
            "self.lease_left()",
        )],
        proofs: &[Proof::Test(
            CLIENT,
            "lease_scenarios::the_kernel_of_a_process_that_is_killed_believes_nothing_when_others_get_its_leases",
        )],
    },
    Mutant {
        name: "cached-too-long-after-loss",
        story: "after its connection ended a client caches longer than others wait for it",
        file: "appliance/client/src/validity.rs",
        replacements: &[("reconnect / 5 * 4", "reconnect / 5 * 6")],
        proofs: &[
            Proof::Test(CLIENT, "validity::test::a_lost_connection_ends_it_early_and_never_late"),
            Proof::Test(
                CLIENT,
                "lease_scenarios::after_its_connection_ended_a_client_caches_no_longer_than_others_wait_for_it",
            ),
        ],
    },
    Mutant {
        name: "lease-counts-from-the-answer",
        story: "a lease counts from when the answer to a ping came, not from when the ping was sent",
        file: "appliance/client/src/keeper.rs",
        replacements: &[(
            "self.session.confirm(lane.generation, sent);",
            "self.session.confirm(lane.generation, sent.max(self.clock.now()));",
        )],
        proofs: &[Proof::Test(CLIENT, "lease_scenarios::a_ping_counts_from_when_it_was_sent")],
    },
    Mutant {
        name: "revoked-data-not-asserted",
        story: "content under a lease that is being given back is not re-asserted to a server that restarted",
        file: "appliance/client/src/inode.rs",
        replacements: &[(
            "let (read, write) = match self.data.mode {",
            "let (read, write) = match if self.data.revoking { DataMode::None } else { self.data.mode } {",
        )],
        proofs: &[
            Proof::Test(CLIENT, "inode::test::what_is_being_given_back_is_held_until_the_answer"),
            Proof::TestOrHang(
                CLIENT,
                "lease_scenarios::what_is_being_given_back_is_asserted_until_its_pages_are_clean",
            ),
        ],
    },
    Mutant {
        name: "lock-releases-dropped",
        story: "what gives a lock back is dropped when many favours wait: the lock stays for ever",
        file: "appliance/client/src/janitor.rs",
        replacements: &[(
            "self.enter(|state| state.duties.push_back(Box::new(chore)));",
            "self.favour(chore);",
        )],
        proofs: &[Proof::Test(
            CLIENT,
            "janitor::test::duties_are_kept_beyond_the_bound_of_favours",
        )],
    },
    Mutant {
        name: "lost-pieces-are-no-errors",
        story: "a piece of a transfer that panicked is left out of the results: the transfer succeeded",
        file: "appliance/client/src/pool.rs",
        replacements: &[(
            "            ordered[index] = result;\n        }\n        ordered\n",
            "            ordered[index] = result;\n        }\n        ordered.retain(Result::is_ok);\n        ordered\n",
        )],
        proofs: &[Proof::Test(CLIENT, "pool::test::a_piece_that_panics_is_an_error")],
    },
    Mutant {
        name: "objects-cut-first",
        story: "a truncate cuts objects before the metadata service allowed it: a refusal leaves a cut file",
        file: "appliance/client/src/set_attributes.rs",
        replacements: &[(
            "let (found, caching) = self.send_changes(inode, &changes.message(inode), cancel)?;",
            "if let Some(size) = changes.size {\n            self.truncate(inode, size, Timespec::ZERO, cancel)?;\n        }\n        let (found, caching) = self.send_changes(inode, &changes.message(inode), cancel)?;",
        )],
        proofs: &[Proof::Test(
            CLIENT,
            "refusal_test::a_truncate_the_metadata_service_refuses_leaves_the_content",
        )],
    },
    Mutant {
        name: "set-behind-the-objects",
        story: "a time of content that is set counts by the metadata service's clock alone: where that was set back, nothing changes",
        file: "appliance/client/src/set_attributes.rs",
        replacements: &[(
            "if !changes.sets_mtime() || written == found.attributes.mtime {",
            "if changes.sets_mtime() || written == found.attributes.mtime {",
        )],
        proofs: &[Proof::Test(
            CLIENT,
            "set_attributes::test::a_time_that_is_set_counts_though_the_server_s_clock_was_set_back_behind_the_objects",
        )],
    },
];
