//! Who may do what is asked of each request, and of all that it takes.

use crate::{Mutant, Proof, TestTarget};

const NODE: TestTarget = TestTarget::library("sheen-node");
const META: TestTarget = TestTarget::library("sheen-meta");

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "rights-asked-at-connect-alone",
        story: "what a session may do is looked at when it is opened, and not when it asks",
        file: "appliance/node/src/mdt/core.rs",
        replacements: &[(
            "self.check_session(&incoming).and_then(|()| self.authorize(&incoming));",
            "self.check_session(&incoming).and_then(|()| match incoming.frame.opcode {\n            Opcode::Connect => self.authorize(&incoming),\n            _ => Ok(()),\n        });",
        )],
        proofs: &[
            Proof::Test(NODE, "mdt::authorize_test::a_session_of_another_file_system_gets_nothing"),
            Proof::Test(NODE, "mdt::authorize_test::a_session_that_reads_only_changes_nothing"),
        ],
    },
    Mutant {
        name: "file-system-not-asked",
        story: "a session of one file system reads and changes inodes of another",
        file: "appliance/node/src/mdt/authorize.rs",
        replacements: &[(
            "is_ok_and(|of| of != root)",
            "is_ok_and(|of| of != root && of.is_none())",
        )],
        proofs: &[Proof::Test(
            NODE,
            "mdt::authorize_test::a_session_of_another_file_system_gets_nothing",
        )],
    },
    Mutant {
        name: "read-only-not-asked",
        story: "a session that may only read changes what it likes",
        file: "appliance/node/src/mdt/authorize.rs",
        replacements: &[(
            "if changes && access.read_only {",
            "if changes && access.read_only && access.checked {",
        )],
        proofs: &[Proof::Test(
            NODE,
            "mdt::authorize_test::a_session_that_reads_only_changes_nothing",
        )],
    },
    Mutant {
        name: "owner-not-asked",
        story: "any session that is trusted makes, lists and deletes file systems",
        file: "appliance/node/src/mdt/authorize.rs",
        replacements: &[(
            "Demand::Owner if access.principal == SessionPrincipal::Owner => return Ok(()),",
            "Demand::Owner if !access.checked => return Ok(()),",
        )],
        proofs: &[Proof::Test(
            NODE,
            "mdt::authorize_test::sessions_of_the_file_system_are_refused_nothing_of_it",
        )],
    },
    Mutant {
        name: "untrusted-is-served",
        story: "a session that is not trusted with permissions is served as one that is",
        file: "appliance/node/src/mdt/authorize.rs",
        replacements: &[("if access.checked {", "if access.checked && access.root.is_none() {")],
        proofs: &[Proof::Test(
            NODE,
            "mdt::authorize_test::a_session_that_is_not_trusted_gets_nothing",
        )],
    },
    Mutant {
        name: "every-session-is-the-owner-s",
        story: "sessions are opened as the owner's, whoever comes",
        file: "appliance/node/src/mdt/mutation.rs",
        replacements: &[(
            "opened.ok_or(DecodeError::Value(\"connection\"))?.principal;",
            "opened.map(|_| sheen_meta::SessionPrincipal::Owner);\n                let principal = principal.ok_or(DecodeError::Value(\"connection\"))?;",
        )],
        proofs: &[Proof::Test(
            NODE,
            "mdt::authorize_test::after_a_restart_a_session_is_whose_it_was",
        )],
    },
    Mutant {
        name: "asserted-without-a-right",
        story: "after a restart a client has what it says it held, whatever it may do",
        file: "appliance/node/src/mdt/reassert.rs",
        replacements: &[(
            "\n                && self.may_hold(client, lease.fid, lease.write_bits != 0)",
            "",
        )],
        proofs: &[Proof::Test(NODE, "mdt::authorize_test::nobody_asserts_what_it_may_not_have")],
    },
    Mutant {
        name: "objects-of-any-file-system",
        story: "an OST gives a session objects of another file system than its own",
        file: "appliance/node/src/ost/access.rs",
        replacements: &[("object.ver == self.filesystem", "object.ver != u32::MAX")],
        proofs: &[Proof::Test(
            NODE,
            "ost::test::access::objects_are_for_sessions_of_their_file_system_alone",
        )],
    },
    Mutant {
        name: "objects-without-a-label",
        story: "an OST gives objects that do not tell their file system to sessions of one file system alone",
        file: "appliance/node/src/ost/access.rs",
        replacements: &[("{ self.unlabelled }", "{ self.unlabelled || self.filesystem != 0 }")],
        proofs: &[Proof::Test(
            NODE,
            "ost::test::access::objects_are_for_sessions_of_their_file_system_alone",
        )],
    },
    Mutant {
        name: "objects-written-by-readers",
        story: "an OST changes objects for a session that may only read",
        file: "appliance/node/src/ost/access.rs",
        replacements: &[("if self.read_only {", "if self.read_only && object.ver == u32::MAX {")],
        proofs: &[Proof::Test(
            NODE,
            "ost::test::access::a_session_that_reads_only_changes_no_object",
        )],
    },
    Mutant {
        name: "objects-renamed-by-replay",
        story: "what an older release logged is applied again under names that the OSTs do not know",
        file: "appliance/meta/src/apply/create.rs",
        replacements: &[("if change.labelled {", "if change.labelled || change.client.0 != 0 {")],
        proofs: &[Proof::Test(
            META,
            "test::create::new_objects_carry_their_file_system_unless_the_entry_is_older",
        )],
    },
    Mutant {
        name: "objects-never-labelled",
        story: "new files get objects that do not tell their file system",
        file: "appliance/meta/src/apply/create.rs",
        replacements: &[(
            "if change.labelled {",
            "if change.labelled && change.client.0 == u64::MAX {",
        )],
        proofs: &[Proof::Test(
            META,
            "test::create::new_objects_carry_their_file_system_unless_the_entry_is_older",
        )],
    },
    Mutant {
        name: "grown-files-without-a-label",
        story: "objects that a file gets as it grows do not tell their file system",
        file: "appliance/meta/src/apply/attributes.rs",
        replacements: &[(
            "if change.labelled {",
            "if change.labelled && change.client.0 == u64::MAX {",
        )],
        proofs: &[Proof::Test(
            META,
            "test::create::new_objects_carry_their_file_system_unless_the_entry_is_older",
        )],
    },
    Mutant {
        name: "lists-without-objects",
        story: "the list of sessions does not tell OSTs which file system is a session's",
        file: "appliance/node/src/mdt/admitting.rs",
        replacements: &[(
            "            objects: self.object_access(client),",
            "            objects: ObjectAccess::NONE,",
        )],
        proofs: &[Proof::Test(
            NODE,
            "mdt::authorize_test::osts_are_told_what_a_session_may_do_with_objects",
        )],
    },
];
