//! The formats a namespace can be given.

use std::time::Duration;

use super::{
    admin::AdminError,
    controller::{AdminData, Controller},
};
use crate::spec::{
    AdminOpcode, Sqe,
    command::{IdentifyDword10, cns},
    identify::IdentifyNamespace,
};

/// Longest that an Identify may take.
const IDENTIFY_WAIT: Duration = Duration::from_secs(10);

/// A format of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Its number.
    pub number: u8,
    /// Logarithm of a logical block's bytes (LBADS); 0: not offered.
    pub block_log2: u8,
    /// Bytes of metadata per block (MS).
    pub metadata_bytes: u16,
    /// Whether the namespace has it now.
    pub is_current: bool,
}

impl Controller {
    /// The formats of namespace `nsid`, also when the one it has cannot be used.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn formats(&self, nsid: u32) -> Result<Vec<Format>, AdminError> {
        let sqe = Sqe::admin(AdminOpcode::IDENTIFY, nsid)
            .with_dword(10, IdentifyDword10::default().with_cns(cns::NAMESPACE).0);
        let reply = self.admin(sqe, AdminData::In, IDENTIFY_WAIT, None)?;
        let page =
            reply.buffer.and_then(|buffer| IdentifyNamespace::decode_prefix(buffer.as_slice()));
        let identify = page.ok_or(AdminError::Impossible("an answer without its page"))?;
        let current = identify.format_index();
        let numbered = (0..).zip(identify.formats());
        let formats = numbered.map(|(number, format)| Format {
            number,
            block_log2: format.lbads(),
            metadata_bytes: format.ms(),
            is_current: usize::from(number) == current,
        });
        Ok(formats.collect())
    }
}
