//! What a token of the store's names.

use crate::{IoToken, area::Role};

/// A device operation of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Io {
    /// Data of an operation.
    Data { operation: u32, generation: u32 },
    /// A journal batch.
    Journal { sequence: u64 },
    /// A flush.
    Flush,
    /// A copy of a batch of a checkpoint area.
    Area { role: Role, sequence: u64 },
    /// A copy of the anchor.
    Anchor,
    /// A discard of a region.
    Discard { region: u64 },
    /// A read while opening: which one.
    Open { read: u32 },
}

const KIND_SHIFT: u32 = 61;
const ROLE_SHIFT: u32 = KIND_SHIFT - 1;
const GENERATION_BITS: u32 = 29;

impl Io {
    pub(crate) fn token(self) -> IoToken {
        let (kind, rest) = match self {
            Self::Data { operation, generation } => {
                let generation = u64::from(generation) & ((1 << GENERATION_BITS) - 1);
                (0, generation << 32 | u64::from(operation))
            }
            Self::Journal { sequence } => (1, sequence),
            Self::Flush => (2, 0),
            Self::Area { role, sequence } => {
                (3, u64::from(role == Role::Growing) << ROLE_SHIFT | sequence)
            }
            Self::Anchor => (4, 0),
            Self::Open { read } => (5, u64::from(read)),
            Self::Discard { region } => (6, region),
        };
        IoToken(kind << KIND_SHIFT | rest)
    }

    /// What the token names.
    ///
    /// # Panics
    /// When the store never gave such a token.
    pub(crate) fn of(token: IoToken) -> Self {
        let rest = token.0 & ((1 << KIND_SHIFT) - 1);
        let low = u32::try_from(rest & 0xffff_ffff).expect("32 bits");
        match token.0 >> KIND_SHIFT {
            0 => Self::Data {
                operation: low,
                generation: u32::try_from(rest >> 32).expect("29 bits"),
            },
            1 => Self::Journal { sequence: rest },
            2 => Self::Flush,
            3 => {
                let growing = rest >> ROLE_SHIFT == 1;
                let role = if growing { Role::Growing } else { Role::Current };
                Self::Area { role, sequence: rest & ((1 << ROLE_SHIFT) - 1) }
            }
            4 => Self::Anchor,
            5 => Self::Open { read: low },
            6 => Self::Discard { region: rest },
            kind => panic!("no token is of kind {kind}"),
        }
    }
}
