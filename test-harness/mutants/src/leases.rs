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
        name: "revoked-as-if-hung-up",
        story: "content that a revoked client may still be writing is given to others",
        file: "appliance/node/src/mdt/commit.rs",
        replacements: &[(
            "if !evicted && is_published(by) {",
            "if !evicted && is_published(by) && false {",
        )],
        proofs: &[Proof::Test(
            NODE,
            "mdt::identities_test::who_is_revoked_is_told_and_the_osts_and_what_it_held_is_free_when_they_fenced_it",
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
        name: "given-before-the-list-is-drained",
        story: "after a restart what others held is given on while an OST may still change it for a session that ended",
        file: "appliance/node/src/mdt/unsettled.rs",
        replacements: &[(
            "self.osts.iter().map(|address| address.ost).collect();",
            "self.osts.iter().map(|address| address.ost).take(0).collect();",
        )],
        proofs: &[Proof::Test(
            NODE,
            "mdt::restart_test::a_restart_tells_who_lives_and_gives_content_when_the_osts_are_done_with_all_others",
        )],
    },
    Mutant {
        name: "missing-given-on",
        story: "after a restart content is given on while an OST may still change it for a client that did not come back",
        file: "appliance/node/src/mdt/eviction.rs",
        replacements: &[(
            "let missing = session.recovering;",
            "let missing = session.recovering && session.cleaned > 0;",
        )],
        proofs: &[Proof::Test(
            NODE,
            "mdt::unsettled_test::a_stuck_ost_keeps_only_what_lies_there_when_a_client_does_not_come_back",
        )],
    },
    Mutant {
        name: "stuck-ost-keeps-everything",
        story: "after a restart an OST that is stuck keeps content from others that has nothing to do with it",
        file: "appliance/node/src/mdt/unsettled.rs",
        replacements: &[(
            "&& self.lies_at(fid, |ost| self.unsettled.is_at(ost))\n",
            "&& fid != Fid::NONE\n",
        )],
        proofs: &[Proof::Test(
            NODE,
            "mdt::unsettled_test::when_all_are_back_a_stuck_ost_keeps_only_content_that_nobody_holds",
        )],
    },
    Mutant {
        name: "missed-dismissal-forgotten",
        story: "a session whose dismissal did not arrive is never said to be fenced, or said to be at once",
        file: "appliance/node/src/mdt/admitting.rs",
        replacements: &[("self.admitting.again.insert(client);", "let _ = client;")],
        proofs: &[Proof::Test(
            NODE,
            "mdt::admitting_test::a_dismissal_that_was_missed_is_told_again_and_waited_for",
        )],
    },
    Mutant {
        name: "any-session-over-any-connection",
        story: "an OST carries out what names a session, whatever connection it comes over",
        file: "appliance/node/src/ost/sessions.rs",
        replacements: &[(
            "Some(attached) if attached.client != client => Err(Refusal::Another),",
            "",
        )],
        proofs: &[Proof::Test(NODE, "ost::test::sessions::who_names_another_session_is_refused")],
    },
    Mutant {
        name: "attached-without-a-key",
        story: "an OST attaches a connection to the session it names, whatever key it shows",
        file: "appliance/node/src/ost/sessions.rs",
        replacements: &[(
            "if principal != opened_by || !list.secret.proves(key, &session) {",
            "if principal != opened_by || key.0.len() != 32 || session.client != client {",
        )],
        proofs: &[Proof::Test(NODE, "ost::test::sessions::nobody_attaches_as_another")],
    },
    Mutant {
        name: "older-leader-believed",
        story: "an OST takes the list of an MDT that does not lead any more",
        file: "appliance/node/src/ost/sessions.rs",
        replacements: &[(
            "list.version < mine.version",
            "list.version.changes < mine.version.changes",
        )],
        proofs: &[Proof::Test(
            NODE,
            "ost::test::sessions::a_stale_list_from_an_older_leader_is_refused",
        )],
    },
    Mutant {
        name: "gap-in-the-list",
        story: "an OST takes a change of the list although it missed the one before",
        file: "appliance/node/src/ost/sessions.rs",
        replacements: &[("list.version.next() == version", "list.version < version")],
        proofs: &[Proof::Test(NODE, "ost::test::sessions::a_gap_asks_for_the_whole_list")],
    },
    Mutant {
        name: "list-with-an-older-number",
        story: "the list of sessions has a number before the last change, so that what it takes back passes for what is there",
        file: "appliance/node/src/mdt/admitting.rs",
        replacements: &[(
            "let version = self.list_version();\n        let living",
            "let mut version = self.list_version();\n        version.changes /= 2;\n        let living",
        )],
        proofs: &[Proof::Test(NODE, "mdt::admitting_test::lists_with_one_number_are_the_same")],
    },
    Mutant {
        name: "one-full-mailbox-stops-all",
        story: "while one OST service takes no mail, those behind it hear of no session",
        file: "appliance/node/src/ost/gateway.rs",
        replacements: &[(
            "                self.fall_behind(service);\n                behind.push(service);\n",
            "                self.fall_behind(service);\n                behind.extend(service..self.services.len());\n                break;\n",
        )],
        proofs: &[Proof::Test(
            NODE,
            "ost::gateway::test::a_service_that_takes_no_mail_keeps_no_other_from_hearing_of_sessions",
        )],
    },
    Mutant {
        name: "gave-way-and-came-back",
        story: "a connection that gave way to another of its session is attached again before it is closed",
        file: "appliance/node/src/ost/attachments.rs",
        replacements: &[(
            "self.connections.remove(&connection);\n    }",
            "if let Some(found) = self.connections.get_mut(&connection) {\n            found.session = None;\n        }\n    }",
        )],
        proofs: &[Proof::Test(
            NODE,
            "ost::test::sessions::a_connection_that_gave_way_is_attached_to_nothing_any_more",
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
