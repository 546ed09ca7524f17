//! Bounds: tables, windows, pages of replies; and where objects are placed.

use crate::{Mutant, Proof, TestTarget};

const NODE: TestTarget = TestTarget::library("sheen-node");
const META: TestTarget = TestTarget::library("sheen-meta");

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "leases-without-a-bound",
        story: "a full table of leases grants on",
        file: "appliance/meta/src/leases.rs",
        replacements: &[(
            "if (read == 0 && write == 0) || !room {",
            "if (read == 0 && write == 0) || !room && self.leases_max == 0 {",
        )],
        proofs: &[Proof::Test(META, "leases::test::a_full_table_grants_nothing_new")],
    },
    Mutant {
        name: "opens-without-a-bound",
        story: "a full table of opens takes more",
        file: "appliance/meta/src/opens.rs",
        replacements: &[("if self.room() == 0 {", "if self.room() == usize::MAX {")],
        proofs: &[Proof::Test(
            META,
            "opens::test::a_full_table_takes_no_new_pair_and_a_close_makes_room",
        )],
    },
    Mutant {
        name: "opens-checked-too-late",
        story: "opens that changes under way will register are not counted: a create has an effect and is refused",
        file: "appliance/node/src/mdt/lease.rs",
        replacements: &[(
            "self.opens.share_left(client, own, all) > 0",
            "self.opens.share_left(client, own.min(0), all.min(0)) > 0",
        )],
        proofs: &[Proof::Test(
            NODE,
            "mdt::limits_test::a_create_that_opens_too_many_is_refused_before_it_has_an_effect",
        )],
    },
    Mutant {
        name: "destroys-without-a-bound",
        story: "one job names all objects there are to destroy",
        file: "appliance/node/src/mdt/destroys.rs",
        replacements: &[(
            "objects.extend(free.take(DESTROY_OBJECTS_MAX));",
            "objects.extend(free);",
        )],
        proofs: &[Proof::Test(
            NODE,
            "mdt::destroys_test::several_destroys_are_under_way_and_no_more_than_the_window_holds",
        )],
    },
    Mutant {
        name: "destroy-jobs-without-a-bound",
        story: "an OST is told of any number of jobs at a time",
        file: "appliance/node/src/mdt/destroys.rs",
        replacements: &[("if window.jobs < JOBS_MAX {", "if window.jobs < usize::MAX {")],
        proofs: &[Proof::Test(
            NODE,
            "mdt::destroys_test::several_destroys_are_under_way_and_no_more_than_the_window_holds",
        )],
    },
    Mutant {
        name: "all-osts-in-one-reply",
        story: "the answer to Connect names all OSTs, also those that do not fit it",
        file: "appliance/node/src/mdt/session.rs",
        replacements: &[(
            "let page = &behind[..behind.len().min(OSTS_PER_REPLY)];",
            "let page = &behind[..behind.len().min(OSTS_PER_REPLY * 100)];",
        )],
        proofs: &[Proof::Test(
            NODE,
            "mdt::osts_test::every_ost_is_told_up_to_the_most_there_may_be",
        )],
    },
    Mutant {
        name: "placement-is-blind-to-space",
        story: "every OST gets as many new objects, however full it is",
        file: "appliance/node/src/mdt/placement.rs",
        replacements: &[(
            "let weight = if alike { 1 } else { weight };",
            "let weight = if alike { 1 } else { weight.min(1) };",
        )],
        proofs: &[Proof::Test(
            NODE,
            "mdt::placement::test::a_fuller_ost_gets_fewer_and_never_many_in_a_row",
        )],
    },
    Mutant {
        name: "placement-takes-full-and-sick",
        story: "new objects go to OSTs that are full or cannot serve, though there are others",
        file: "appliance/node/src/mdt/placement.rs",
        replacements: &[(
            "filter(|ost| Some(standing(ost)) == best)",
            "filter(|ost| Some(standing(ost)) >= best)",
        )],
        proofs: &[
            Proof::Test(
                NODE,
                "mdt::placement::test::full_and_sick_osts_are_left_out_while_there_are_others",
            ),
            Proof::Test(
                NODE,
                "mdt::osts_test::new_files_keep_away_from_full_and_sick_osts_as_long_as_there_are_others",
            ),
        ],
    },
    Mutant {
        name: "lost-blocks-are-promised",
        story: "the store promises space it lost to bad blocks",
        file: "appliance/store/src/issue.rs",
        replacements: &[("planned.saturating_sub(self.retired_blocks)", "planned")],
        proofs: &[Proof::Test(
            TestTarget::integration("sheen-store", "model"),
            "retired::a_store_that_lost_a_part_of_its_reserve_promises_no_block_it_has_not",
        )],
    },
];
