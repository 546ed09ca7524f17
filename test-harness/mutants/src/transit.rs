//! Between machines: who is at the other end, and records that nobody on the way reads or changes.

use crate::{Mutant, Proof, TestTarget};

const RDMA: TestTarget = TestTarget::library("sheen-rdma");

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "nonce-used-twice",
        story: "two records are sealed with the same nonce",
        file: "rdma/src/seal/sealer.rs",
        replacements: &[(
            "self.next += 1;\n        assert!(number < self.next, \"a nonce is used once\");",
            "",
        )],
        proofs: &[Proof::Test(RDMA, "seal::attack_test::equal_messages_never_look_equal")],
    },
    Mutant {
        name: "record-order-not-compared",
        story: "a record is taken again, or in the place of another",
        file: "rdma/src/seal/opener.rs",
        replacements: &[("if header.sequence != self.next {", "if false {")],
        proofs: &[Proof::Test(
            RDMA,
            "seal::attack_test::a_record_again_one_left_out_and_two_exchanged_are_found",
        )],
    },
    Mutant {
        name: "order-begins-again-with-a-phase",
        story: "the last records of a phase may be left out on the way",
        file: "rdma/src/seal/opener.rs",
        replacements: &[(
            "if header.sequence != self.next {",
            "if header.sequence != self.next && self.next != self.phase_first {",
        )],
        proofs: &[Proof::Test(
            RDMA,
            "seal::attack_test::a_record_left_out_where_phases_meet_is_found",
        )],
    },
    Mutant {
        name: "payload-bound-to-nothing",
        story: "the payload of one message opens under another",
        file: "rdma/src/seal.rs",
        replacements: &[("        data[0..4].copy_from_slice(&self.slot.to_le_bytes());\n", "")],
        proofs: &[Proof::Test(
            RDMA,
            "seal::attack_test::a_payload_opens_under_its_own_message_alone",
        )],
    },
    Mutant {
        name: "phase-skipped",
        story: "a record of any later phase is taken",
        file: "rdma/src/seal/opener.rs",
        replacements: &[(
            "Some(keys) if header.phase == next =>",
            "Some(keys) if header.phase >= next =>",
        )],
        proofs: &[Proof::Test(
            RDMA,
            "seal::attack_test::two_phases_at_once_and_one_back_are_refused",
        )],
    },
    Mutant {
        name: "keys-never-change",
        story: "the keys of a connection stay the same however much they seal",
        file: "rdma/src/seal/sealer.rs",
        replacements: &[("&& phase.is_full(&self.limits, now)", "&& false")],
        proofs: &[Proof::Test(
            RDMA,
            "seal::attack_test::keys_change_at_the_limit_of_blocks_and_of_time",
        )],
    },
    Mutant {
        name: "second-try-for-a-forger",
        story: "records are taken behind one that did not open",
        file: "rdma/src/seal/opener.rs",
        replacements: &[("            return Err(OpenError::Ended);\n", "")],
        proofs: &[Proof::Test(
            RDMA,
            "seal::attack_test::a_flipped_bit_anywhere_is_found_and_nothing_opens_behind_it",
        )],
    },
    Mutant {
        name: "one-secret-for-both-directions",
        story: "a record opens at who sent it",
        file: "rdma/src/handshake.rs",
        replacements: &[(
            "let [client, node] = &both;",
            "let [client, _] = &both;\n        let node = client;",
        )],
        proofs: &[Proof::Test(
            RDMA,
            "handshake::handshake_test::a_record_does_not_open_at_its_sender_nor_on_another_connection",
        )],
    },
    Mutant {
        name: "secrets-bound-to-nothing",
        story: "hello, answer and certificates may be exchanged on the way",
        file: "rdma/src/handshake.rs",
        replacements: &[("EXPORT_LABEL, Some(&context));", "EXPORT_LABEL, Some(&context[..0]));")],
        proofs: &[Proof::Test(
            RDMA,
            "handshake::raw_peer_test::every_part_of_the_binding_changes_the_secrets",
        )],
    },
    Mutant {
        name: "clients-certificate-not-bound",
        story: "the secrets do not depend on who the client is",
        file: "rdma/src/handshake.rs",
        replacements: &[(
            "[&binding.hello[..], binding.answer, &binding.node, &binding.client]",
            "[&binding.hello[..], binding.answer, &binding.node]",
        )],
        proofs: &[Proof::Test(
            RDMA,
            "handshake::raw_peer_test::every_part_of_the_binding_changes_the_secrets",
        )],
    },
    Mutant {
        name: "certificate-without-purpose-taken",
        story: "a certificate that names no purpose is a node's as well as a client's",
        file: "rdma/src/handshake/verifier.rs",
        replacements: &[("KeyUsage::required(purpose)", "KeyUsage::required_if_present(purpose)")],
        proofs: &[Proof::Test(
            RDMA,
            "handshake::handshake_test::a_nodes_certificate_is_no_clients_and_the_reverse_and_one_without_purpose_is_neither",
        )],
    },
    Mutant {
        name: "authority-believed-for-ever",
        story: "what an authority signs is taken after its own end",
        file: "rdma/src/handshake/verifier.rs",
        replacements: &[("if Duration::from_secs(now.as_secs()) <= end {", "if true {")],
        proofs: &[Proof::Test(
            RDMA,
            "handshake::handshake_test::an_authority_is_believed_until_its_own_end",
        )],
    },
    Mutant {
        name: "clients-name-not-compared",
        story: "a certificate for another name is a client's",
        file: "rdma/src/handshake/verifier.rs",
        replacements: &[(
            "        parsed.verify_is_valid_for_subject_name(&client_name()).map_err(|error| fault(&error))?;\n",
            "        drop(parsed);\n",
        )],
        proofs: &[Proof::Test(
            RDMA,
            "handshake::handshake_test::either_end_is_believed_under_its_name_alone",
        )],
    },
    Mutant {
        name: "answers-transit-not-compared",
        story: "a client that agreed to encrypt goes on in clear",
        file: "rdma/src/handshake/client.rs",
        replacements: &[("if answer.transit != transit {", "if false {")],
        proofs: &[Proof::Test(
            RDMA,
            "handshake::raw_peer_test::an_answer_that_is_changed_gives_other_keys_or_none",
        )],
    },
    Mutant {
        name: "bytes-behind-a-hello-taken",
        story: "what a client sends before it has an answer is dropped without a word",
        file: "rdma/src/handshake/tls_records.rs",
        replacements: &[("if !input.is_empty() {", "if false {")],
        proofs: &[Proof::Test(
            RDMA,
            "handshake::raw_peer_test::bytes_behind_a_hello_and_hellos_of_other_lengths_are_refused",
        )],
    },
    Mutant {
        name: "tickets-given",
        story: "a session may be taken up again, past the question who is let in",
        file: "rdma/src/handshake/settings.rs",
        replacements: &[("tls.send_tls13_tickets = 0;", "tls.send_tls13_tickets = 2;")],
        proofs: &[Proof::Test(
            RDMA,
            "handshake::raw_peer_test::no_ticket_is_given_and_no_session_is_taken_up_again",
        )],
    },
    Mutant {
        name: "any-node-will-do",
        story: "a node lets in a client that asked for another one",
        file: "rdma/src/handshake/server.rs",
        replacements: &[("&& hello.node != node {", "&& hello.node != node && false {")],
        proofs: &[Proof::Test(
            RDMA,
            "handshake::handshake_test::another_node_than_the_one_asked_for_refuses",
        )],
    },
    Mutant {
        name: "handshake-without-bound",
        story: "a client sends a handshake of any length",
        file: "rdma/src/handshake/tls_records.rs",
        replacements: &[("if self.read > READ_MAX {", "if false {")],
        proofs: &[Proof::Test(
            RDMA,
            "handshake::raw_peer_test::a_handshake_of_too_many_bytes_is_cut_off_on_both_sides",
        )],
    },
    Mutant {
        name: "payload-sent-in-clear",
        story: "a client seals its messages and sends their payloads as they are",
        file: "rdma/src/outbox.rs",
        replacements: &[(
            "let payload = if self.sealing.is_encrypted() {",
            "let payload = if false {",
        )],
        proofs: &[Proof::Test(
            RDMA,
            "outbox::test::a_payload_that_is_sent_keeps_its_plaintext_and_does_not_travel_in_clear",
        )],
    },
    Mutant {
        name: "payload-given-on-unopened",
        story: "a service is given a payload that did not open",
        file: "rdma/src/tcp_connection.rs",
        replacements: &[(
            "let result = opened.map_err(|_| NotifyError::Closed);",
            "let result = Ok::<(), NotifyError>(());",
        )],
        proofs: &[Proof::Test(
            RDMA,
            "sealed_stream_test::a_changed_bit_ends_the_connection_before_anybody_uses_it",
        )],
    },
    Mutant {
        name: "address-without-bound",
        story: "silent peers of one address take all places for handshakes",
        file: "rdma/src/acceptor/handshake_places.rs",
        replacements: &[("if alike.len() >= HALF_OPEN_OF_ADDRESS_MAX", "if false")],
        proofs: &[Proof::Test(
            RDMA,
            "acceptor::handshake_places::test::one_address_takes_its_own_places_alone",
        )],
    },
    Mutant {
        name: "places-without-bound",
        story: "as many handshakes are under way as peers begin",
        file: "rdma/src/acceptor/handshake_places.rs",
        replacements: &[("        if taken.all >= HALF_OPEN_MAX {", "        if false {")],
        proofs: &[Proof::Test(
            RDMA,
            "acceptor::handshake_places::test::places_end_at_the_bound_and_come_back",
        )],
    },
    Mutant {
        name: "refusals-fill-the-log",
        story: "who is refused again and again fills the log",
        file: "rdma/src/acceptor/refusal_log.rs",
        replacements: &[("if counts.told >= REFUSALS_TOLD_MAX {", "if false {")],
        proofs: &[Proof::Test(
            RDMA,
            "acceptor::refusal_log::test::so_many_are_told_in_a_period_and_the_others_counted",
        )],
    },
];
