//! The cluster's secret: made once, kept in the replicated state under the node's own key.
//!
//! The node's key follows from the data key of an encrypted device; beside one that is not encrypted it is in a file. So whoever has the
//! device without its key source, or without that file, opens no authority.

use std::path::PathBuf;

use sheen_keys::{KeyFile, SealLabel, Secret, new_sealing_key, open_secret, seal_secret};
use sheen_meta::{
    Operation,
    identity::{PutClusterSecret, SecretWrap},
};
use sheen_wire::fields::List;

use super::{IdentitiesError, desk::Desk};
use crate::{config::Config, device::Device};

/// What the cluster's secret is sealed for.
const CLUSTER_PURPOSE: &str = "sheen cluster v1";
/// What stands behind the name of a device whose key file lies beside it.
const KEY_SUFFIX: &str = ".identity-key";
const FIRST: u32 = 1;

/// Where the node's key is.
#[derive(Debug)]
pub(crate) enum NodeKey {
    /// Derived from the device's.
    OfDevice(Secret),
    /// In a file, made when it is needed first.
    InFile(PathBuf),
    /// It has no place.
    Nowhere,
}

impl NodeKey {
    pub(crate) fn of(config: &Config, device: &Device) -> Result<Self, IdentitiesError> {
        if let Some(key) = device.identity_key()? {
            return Ok(Self::OfDevice(key));
        }
        let beside = || {
            let mut name = device.path().as_os_str().to_owned();
            name.push(KEY_SUFFIX);
            device.is_file().then(|| PathBuf::from(name))
        };
        let path = config.identity.key.clone().or_else(beside);
        Ok(path.map_or(Self::Nowhere, Self::InFile))
    }

    /// Opens it; makes the file if `may_make`.
    fn open(&self, node: &[u8; 16], may_make: bool) -> Result<Secret, IdentitiesError> {
        let path = match self {
            Self::OfDevice(key) => return Ok(Secret::copy_of(key.expose())?),
            Self::InFile(path) => path,
            Self::Nowhere => return Err(IdentitiesError::NoKeyPlace),
        };
        if !path.exists() {
            if !may_make {
                return Err(IdentitiesError::KeyGone { path: path.clone() });
            }
            KeyFile::create(path)?;
        }
        Ok(KeyFile::open(path)?.identity_key(node)?)
    }
}

/// Finds the cluster's secret, or makes it.
pub(super) fn cluster_secret(
    desk: &Desk,
    key: &NodeKey,
    node: [u8; 16],
) -> Result<Secret, IdentitiesError> {
    let table = desk.fresh_table()?;
    let Some((generation, wraps)) = table.cluster_secret() else {
        let key = key.open(&node, true)?;
        let secret = new_sealing_key()?;
        let wrapped = seal_secret(&key, label(FIRST), &secret)?;
        let wraps = List(vec![SecretWrap { node, wrapped }]);
        let put = PutClusterSecret { generation: FIRST, wraps };
        desk.change(Operation::ClusterSecret(put))?.map_err(IdentitiesError::Refused)?;
        return Ok(secret);
    };
    let wrap = wraps.iter().find(|wrap| wrap.node == node).ok_or(IdentitiesError::NotWrapped)?;
    let key = key.open(&node, false)?;
    Ok(open_secret(&key, label(generation), &wrap.wrapped)?)
}

const fn label(generation: u32) -> SealLabel<'static> {
    SealLabel { purpose: CLUSTER_PURPOSE, generation }
}
