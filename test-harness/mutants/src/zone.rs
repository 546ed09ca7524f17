//! The metadata zone: room for deletes, recovery of the log.

use crate::{Mutant, Proof, TestTarget};

const NODE: TestTarget = TestTarget::library("sheen-node");
const REPLICAS: TestTarget = TestTarget::integration("sheen-consensus", "replicas");

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "zone-without-a-bound",
        story: "changes that add to the state are admitted up to twice the room there is: no snapshot can be written any more",
        file: "appliance/node/src/mdt/admission.rs",
        replacements: &[(
            "let left = self.items_max.saturating_sub(SERVER_BYTES);",
            "let left = self.items_max.saturating_mul(2);",
        )],
        proofs: &[
            Proof::Test(
                NODE,
                "mdt::zone_test::a_full_zone_is_emptied_by_single_deletes_with_restarts_between_and_filled_as_far_again",
            ),
            Proof::Test(
                NODE,
                "mdt::zone_test::a_zone_filled_by_many_at_a_time_is_emptied_by_single_deletes_and_filled_as_far_again",
            ),
        ],
    },
    Mutant {
        name: "log-keeps-nothing",
        story: "the log keeps no blocks for deletes and starts",
        file: "appliance/consensus/src/log.rs",
        replacements: &[
            ("LogRoom::Ordinary => START_BLOCKS + DELETE_BLOCKS,", "LogRoom::Ordinary => 0,"),
            ("LogRoom::Deletes => START_BLOCKS,", "LogRoom::Deletes => 0,"),
        ],
        proofs: &[Proof::Test(
            NODE,
            "mdt::outgrown_test::if_it_cannot_be_compressed_the_blocks_kept_for_deletes_suffice",
        )],
    },
    Mutant {
        name: "any-incarnation-is-believed",
        story: "recovery takes batches of incarnations that never belonged to the log",
        file: "appliance/consensus/src/recovery.rs",
        replacements: &[(
            "incarnations: anchor.head_incarnation..=anchor.incarnation,",
            "incarnations: 0..=u64::MAX,",
        )],
        proofs: &[
            Proof::Test(REPLICAS, "stale::a_stale_batch_where_the_trimmed_log_begins_is_not_taken"),
            Proof::Test(REPLICAS, "stale::what_a_recovery_dropped_never_comes_back"),
        ],
    },
];
