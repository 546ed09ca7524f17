//! The first message: protocol version and capabilities `[vfio-user §VFIO_USER_VERSION]`.
//!
//! Payload: major (2 bytes), minor (2), then optionally JSON that ends with NUL. The JSON comes from outside: bounded
//! in size, unknown names ignored, known names of a wrong type refused.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::layout::Scalar;

/// Longest JSON taken; the specification's names with their largest values fit many times.
pub const VERSION_DATA_BYTES_MAX: usize = 4096;

/// What a side can do. Absent names mean the specification's defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Descriptors the sender takes in one message; default 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_msg_fds: Option<u64>,
    /// Largest `count` of a transfer; default 1 MiB.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_data_xfer_size: Option<u64>,
    /// DMA ranges mapped at one time; default 65535.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_dma_maps: Option<u64>,
    /// Page sizes of DMA ranges or'ed together; default 4 KiB only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pgsizes: Option<u64>,
    /// A second socket for the server's commands.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub twin_socket: Option<TwinSocket>,
    /// REGION_WRITE_MULTI is understood; default false.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub write_multiple: Option<bool>,
}

/// The `twin_socket` object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwinSocket {
    /// The sender can (client) or will (server) use a second socket.
    #[serde(default)]
    pub supported: bool,
    /// Reply only: which descriptor of the message it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fd_index: Option<u64>,
}

impl Capabilities {
    /// Descriptors the sender takes in one message.
    #[must_use]
    pub fn descriptors_max(&self) -> u64 {
        self.max_msg_fds.unwrap_or(1)
    }

    /// Largest `count` of a transfer to the sender.
    #[must_use]
    pub fn transfer_bytes_max(&self) -> u64 {
        self.max_data_xfer_size.unwrap_or(1 << 20)
    }

    /// DMA ranges the sender bears at one time.
    #[must_use]
    pub fn dma_maps_max(&self) -> u64 {
        self.max_dma_maps.unwrap_or(65_535)
    }
}

/// Payload of VERSION, request and reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Must be the same on both sides.
    pub major: u16,
    /// The reply's is at most the request's.
    pub minor: u16,
    /// All defaults when no JSON was sent.
    pub capabilities: Capabilities,
}

/// Why bytes are no VERSION payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionError {
    /// Shorter than the two numbers, or longer than [`VERSION_DATA_BYTES_MAX`] behind them.
    Size(usize),
    /// The JSON does not end with NUL.
    Unterminated,
    /// No JSON object, or a known name with a value of another type.
    Json,
}

#[derive(Serialize)]
struct Data {
    capabilities: Capabilities,
}

impl Version {
    /// Appends the payload, JSON included.
    ///
    /// # Panics
    /// Never: a structure of numbers always serialises.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.major.put(out);
        self.minor.put(out);
        let data = Data { capabilities: self.capabilities };
        serde_json::to_writer(&mut *out, &data).expect("numbers into memory");
        out.push(0);
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// [`VersionError`] says what is wrong with it.
    pub fn decode(payload: &[u8]) -> Result<Self, VersionError> {
        let size = VersionError::Size(payload.len());
        let major = u16::get(payload, 0).ok_or(size)?;
        let minor = u16::get(payload, 2).ok_or(size)?;
        let data = payload.get(4..).ok_or(size)?;
        if data.len() > VERSION_DATA_BYTES_MAX {
            return Err(size);
        }
        let capabilities = match data.split_last() {
            None => Capabilities::default(),
            Some((0, json)) => capabilities(json).ok_or(VersionError::Json)?,
            Some(_) => return Err(VersionError::Unterminated),
        };
        Ok(Self { major, minor, capabilities })
    }
}

/// The capabilities in `json`. The derived readers take an array for an object, so objects are asked for by name.
fn capabilities(json: &[u8]) -> Option<Capabilities> {
    let Value::Object(mut data) = serde_json::from_slice(json).ok()? else { return None };
    let Some(found) = data.remove("capabilities") else { return Some(Capabilities::default()) };
    let is_plain = |value: &Value| value.is_null() || value.is_object();
    if !found.is_object() || !found.get("twin_socket").is_none_or(is_plain) {
        return None;
    }
    serde_json::from_value(found).ok()
}

#[cfg(test)]
mod test {
    use super::*;

    fn decode(json: &[u8]) -> Result<Version, VersionError> {
        let mut payload = vec![0, 0, 2, 0];
        payload.extend_from_slice(json);
        Version::decode(&payload)
    }

    #[test]
    fn unknown_names_are_ignored_and_absent_ones_mean_the_default() {
        let version =
            decode(b"{\"capabilities\":{\"migration\":{\"pgsize\":4096},\"max_msg_fds\":8}}\0")
                .unwrap();
        assert_eq!((version.major, version.minor), (0, 2));
        assert_eq!(version.capabilities.descriptors_max(), 8);
        assert_eq!(version.capabilities.transfer_bytes_max(), 1_048_576);
        assert_eq!(decode(b"").unwrap().capabilities, Capabilities::default());
        assert_eq!(decode(b"{}\0").unwrap().capabilities.dma_maps_max(), 65_535);
    }

    #[test]
    fn json_that_is_none_or_of_wrong_types_is_refused() {
        assert_eq!(decode(b"{}"), Err(VersionError::Unterminated));
        for wrong in [
            &b"\0"[..],
            b"[]\0",
            b"{\"capabilities\":[8]}\0",
            b"{\"capabilities\":{\"twin_socket\":[true]}}\0",
            b"{\"capabilities\":3}\0",
            b"{\"capabilities\":{\"max_msg_fds\":\"8\"}}\0",
            b"{\"capabilities\":{\"max_msg_fds\":-1}}\0",
            b"{\"capabilities\":{\"twin_socket\":{\"supported\":1}}}\0",
            b"{}\0{}\0",
        ] {
            assert_eq!(decode(wrong), Err(VersionError::Json), "{wrong:?}");
        }
        let deep = [b"[".repeat(2000), vec![0]].concat();
        assert_eq!(decode(&deep), Err(VersionError::Json));
        let long = [b" ".repeat(5000), b"{}\0".to_vec()].concat();
        assert!(matches!(decode(&long), Err(VersionError::Size(_))));
        assert_eq!(Version::decode(&[0, 0, 0]), Err(VersionError::Size(3)));
    }
}
