//! The metadata service: leases, who waits for whom, clients that fell silent, requests sent again.

use crate::{Mutant, Proof, TestTarget};

const NODE: TestTarget = TestTarget::library("sheen-node");
const META: TestTarget = TestTarget::library("sheen-meta");

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "waiting-keeps-others-out",
        story: "a change that waits for a lease keeps out what its holder needs to give the lease back",
        file: "appliance/node/src/mdt/mutation.rs",
        replacements: &[("Progress::Waiting => false,", "Progress::Waiting => true,")],
        proofs: &[Proof::Test(
            NODE,
            "mdt::waits_test::a_change_that_waits_for_a_lease_never_blocks_what_its_holder_needs",
        )],
    },
    Mutant {
        name: "writer-beside-readers",
        story: "DATA is granted for writing while others hold it for reading",
        file: "appliance/meta/src/leases.rs",
        replacements: &[(
            "& !others_write & !others_read & !withheld & !to_read;",
            "& !others_write & !withheld & !to_read;",
        )],
        proofs: &[
            Proof::Test(
                META,
                "leases::test::no_history_lets_two_clients_hold_what_excludes_each_other",
            ),
            Proof::Test(
                NODE,
                "mdt::coherence_test::whatever_a_client_may_cache_is_true_at_every_step",
            ),
        ],
    },
    Mutant {
        name: "lease-given-on-too-early",
        story: "what a client held goes to others as soon as it is fenced, while it may still read what it cached",
        file: "appliance/node/src/mdt/eviction.rs",
        replacements: &[(
            "let harmless = session.caches_void || ",
            "let harmless = session.caches_void || session.eviction == Eviction::Fenced || ",
        )],
        proofs: &[Proof::Test(
            NODE,
            "mdt::eviction_test::a_client_evicted_for_a_revoke_keeps_its_lease_from_others_until_it_ended_at_the_client",
        )],
    },
    Mutant {
        name: "hang-up-is-always-believed",
        story: "a connection the network lost counts as one the client closed",
        file: "appliance/node/src/mdt/eviction.rs",
        replacements: &[
            (
                "let hung_up = session.hung_up\n",
                "let hung_up = (session.hung_up || session.disconnected.is_some())\n",
            ),
            ("Some(since) if self.hung_up => ", "Some(since) => "),
            ("Some(_) | None => by_silence,", "None => by_silence,"),
        ],
        proofs: &[Proof::Test(
            NODE,
            "mdt::eviction_test::a_connection_the_network_lost_frees_nothing_before_the_lease_ends",
        )],
    },
    Mutant {
        name: "progress-is-no-excuse",
        story: "a client that gets on with writing back is evicted for being slow",
        file: "appliance/node/src/mdt/eviction.rs",
        replacements: &[(
            "revoking.progress = now;",
            "revoking.progress = revoking.progress.min(now);",
        )],
        proofs: &[Proof::Test(
            NODE,
            "mdt::eviction_test::a_client_that_gets_on_with_its_write_back_is_not_evicted_for_being_slow",
        )],
    },
    Mutant {
        name: "fences-forgotten-at-a-restart",
        story: "who was evicted before a restart of the OSTs is not fenced again",
        file: "appliance/node/src/mdt/session.rs",
        replacements: &[(
            "let first = probe.0.saturating_sub(FENCED_AGAIN_MAX).max(1);",
            "let first = probe.0.saturating_sub(FENCED_AGAIN_MAX).max(probe.0);",
        )],
        proofs: &[Proof::Test(
            NODE,
            "mdt::restart_test::a_restart_fences_again_who_was_evicted_before_it_serves",
        )],
    },
    Mutant {
        name: "resent-is-carried-out-again",
        story: "a change that was carried out and is sent again is carried out once more",
        file: "appliance/node/src/mdt/mutation.rs",
        replacements: &[(
            "if let Some(outcome) = self.state.replayed(frame.client, frame.tag, frame.xid) {",
            "if let Some(outcome) = self.state.replayed(frame.client, frame.tag, frame.xid).filter(|_| false) {",
        )],
        proofs: &[Proof::Test(
            NODE,
            "mdt::test::a_resent_request_is_answered_once_carried_out_or_not",
        )],
    },
    Mutant {
        name: "start-gives-up",
        story: "a start that takes longer than two minutes is given up",
        file: "appliance/node/src/server/start.rs",
        replacements: &[(
            "            pause(LOOK);\n",
            "            pause(LOOK);\n            if now() > Duration::from_secs(120) {\n                return Err(NodeError::Interrupted);\n            }\n",
        )],
        proofs: &[Proof::Test(NODE, "server::test::a_start_may_take_days")],
    },
];
