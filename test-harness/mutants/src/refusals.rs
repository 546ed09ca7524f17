//! What is refused has no effect, and what may not change is refused: immutable and append-only inodes, busy tables.

use crate::{Mutant, Proof, TestTarget};

const CLIENT: TestTarget = TestTarget::library("sheen-client");
const NODE: TestTarget = TestTarget::library("sheen-node");
const META: TestTarget = TestTarget::library("sheen-meta");

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "immutable-is-written",
        story: "an immutable file is written through what was open before",
        file: "appliance/client/src/inode.rs",
        replacements: &[(
            "if self.frozen & frozen::IMMUTABLE != 0 { Err",
            "if self.frozen & frozen::IMMUTABLE == u32::MAX { Err",
        )],
        proofs: &[Proof::Test(
            CLIENT,
            "refusal_test::an_immutable_file_is_not_written_through_what_was_open_before",
        )],
    },
    Mutant {
        name: "immutable-is-opened",
        story: "an immutable file is opened for writing",
        file: "appliance/node/src/mdt/lease.rs",
        replacements: &[(
            "if write && frozen::refuses_open(attributes.flags, append) {",
            "if write && append && frozen::refuses_open(attributes.flags, append) {",
        )],
        proofs: &[Proof::Test(
            NODE,
            "mdt::removal_test::an_immutable_file_is_not_opened_for_writing_and_an_append_only_one_for_appending_alone",
        )],
    },
    Mutant {
        name: "immutable-is-truncated",
        story: "an immutable or append-only file is truncated",
        file: "appliance/meta/src/apply/attributes.rs",
        replacements: &[(
            "let explicit = set::MODE | set::UID | set::GID | set::SIZE | set::ATIME | set::MTIME;",
            "let explicit = set::MODE | set::UID | set::GID | set::ATIME | set::MTIME;",
        )],
        proofs: &[Proof::Test(
            META,
            "test::attributes::immutable_inodes_change_nothing_and_append_only_ones_little",
        )],
    },
    Mutant {
        name: "immutable-is-linked",
        story: "an immutable or append-only file gets another name",
        file: "appliance/meta/src/apply/link.rs",
        replacements: &[(
            "if frozen || inode.is_directory() {",
            "if frozen && inode.is_directory() || inode.is_directory() {",
        )],
        proofs: &[Proof::Test(META, "test::create::hard_links_count_and_change_ctime")],
    },
    Mutant {
        name: "immutable-is-removed-or-moved",
        story: "the name of an immutable or append-only file is taken away",
        file: "appliance/meta/src/apply/permission.rs",
        replacements: &[(
            "if child.is_immutable() || child.is_append_only() {",
            "if child.is_immutable() && child.is_append_only() {",
        )],
        proofs: &[
            Proof::Test(META, "test::unlink::immutable_and_append_only_names_stay"),
            Proof::Test(META, "test::rename::flags_of_directories_and_files_forbid_moves"),
        ],
    },
    Mutant {
        name: "freezing-waits-for-nobody",
        story: "a file is made immutable while others hold changes of its content",
        file: "appliance/meta/src/touches.rs",
        replacements: &[(
            "(request.flags ^ inode.flags) & frozen::ALL != 0;",
            "(request.flags ^ inode.flags) & frozen::ALL == u32::MAX;",
        )],
        proofs: &[Proof::Test(
            META,
            "test::touches::freezing_a_file_waits_for_what_others_may_have_to_write",
        )],
    },
    Mutant {
        name: "created-then-refused",
        story: "a create that opens is refused for want of a place among the opens after it was carried out",
        file: "appliance/node/src/mdt/mutation.rs",
        replacements: &[(
            "if opens(&operation) && !self.may_open(frame.client) {",
            "if opens(&operation) && !self.may_open(frame.client) && false {",
        )],
        proofs: &[Proof::Test(
            NODE,
            "mdt::limits_test::a_create_that_opens_too_many_is_refused_before_it_has_an_effect",
        )],
    },
];
