//! Orders about clients and certificate authorities.
//!
//! `POST /client` and `POST /authority`, each with `{"order": …}`; the answer is JSON. A client is made in two orders: `issue` certifies a key
//! and changes nothing, and `new` or `renew` lists the certificate once its file is whole.

use serde::Deserialize;
use sheen_node::server::identities::{
    ClientShown, Identities, IdentitiesError, NamedCertificate, Others, RightsRequest, from_hex,
    now, to_hex,
};

/// Longest time a certificate is asked for, in seconds: the calendar of certificates ends in 9999.
const SECONDS_MAX: u64 = 100 * 366 * 86_400;

/// An order about clients.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "order", rename_all = "lowercase", deny_unknown_fields)]
pub enum ClientOrder {
    /// Shows all, or the one named.
    List {
        /// Which.
        name: Option<String>,
    },
    /// Certifies a key.
    Issue {
        /// The uncompressed point, in hexadecimal digits.
        public_key: String,
        /// For how long.
        seconds: u64,
    },
    /// Makes a client.
    New {
        /// Its name.
        name: String,
        /// What it may do.
        rights: RightsRequest,
        /// Its certificate.
        certificate: NamedCertificate,
    },
    /// Changes what a client may do.
    Set {
        /// Which.
        name: String,
        /// What changes.
        rights: RightsRequest,
    },
    /// Gives a client another certificate.
    Renew {
        /// Which.
        name: String,
        /// The new one.
        certificate: NamedCertificate,
        /// What becomes of the others.
        others: Others,
    },
    /// Takes everything from a client.
    Revoke {
        /// Which.
        name: String,
        /// It is shown no more.
        #[serde(default)]
        forget: bool,
    },
}

/// An order about certificate authorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "order", rename_all = "lowercase", deny_unknown_fields)]
pub enum AuthorityOrder {
    /// Shows them.
    Show {},
    /// Makes the next one.
    Rotate {},
    /// Ends the old one.
    Retire {},
}

impl ClientOrder {
    /// Carries it out on a node that is reached at `addresses`.
    ///
    /// # Errors
    /// For people.
    pub(super) fn carry_out(
        &self,
        identities: &Identities,
        addresses: &[String],
    ) -> Result<String, String> {
        let done = |name: &str| shown(identities.clients(Some(name)));
        match self {
            Self::List { name } => shown(identities.clients(name.as_deref())),
            Self::Issue { public_key, seconds } => {
                if !(1..=SECONDS_MAX).contains(seconds) {
                    return Err("a certificate is good for 1 second to 100 years".to_owned());
                }
                let key = from_hex(public_key).ok_or("a key is written in hexadecimal digits")?;
                let issued =
                    identities.issue(&key, *seconds, now()).map_err(|error| error.to_string())?;
                let authorities = issued.authorities.iter().map(|it| to_hex(it.der()));
                Ok(serde_json::json!({
                    "certificate": to_hex(issued.certificate.der()),
                    "fingerprint": issued.certificate.fingerprint().to_string(),
                    "not_after": issued.not_after.0,
                    "authorities": authorities.collect::<Vec<_>>(),
                    "node": to_hex(&issued.node),
                    "addresses": addresses,
                })
                .to_string())
            }
            Self::New { name, rights, certificate } => {
                of(identities.new_client(name, rights, certificate))?;
                done(name)
            }
            Self::Set { name, rights } => {
                of(identities.set_client(name, rights))?;
                done(name)
            }
            Self::Renew { name, certificate, others } => {
                of(identities.renew_client(name, certificate, *others, now()))?;
                done(name)
            }
            Self::Revoke { name, forget: true } => {
                of(identities.forget_client(name))?;
                Ok(serde_json::json!({ "clients": [] }).to_string())
            }
            Self::Revoke { name, forget: false } => {
                of(identities.revoke_client(name))?;
                done(name)
            }
        }
    }
}

impl AuthorityOrder {
    /// Carries it out.
    ///
    /// # Errors
    /// For people.
    pub(super) fn carry_out(self, identities: &Identities) -> Result<String, String> {
        match self {
            Self::Show {} => {}
            Self::Rotate {} => of(identities.rotate_authority(now()))?,
            Self::Retire {} => of(identities.retire_authority(now()))?,
        }
        let shown = of(identities.authorities_shown())?;
        serde_json::to_string(&shown).map_err(|error| error.to_string())
    }
}

fn of<T>(result: Result<T, IdentitiesError>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

fn shown(clients: Result<Vec<ClientShown>, IdentitiesError>) -> Result<String, String> {
    Ok(serde_json::json!({ "clients": of(clients)? }).to_string())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn orders_are_read_and_what_is_not_one_is_refused() {
        let read = |text: &str| serde_json::from_str::<ClientOrder>(text);
        assert_eq!(
            read("{\"order\": \"revoke\", \"name\": \"web1\"}").unwrap(),
            ClientOrder::Revoke { name: "web1".to_owned(), forget: false }
        );
        assert_eq!(read("{\"order\": \"list\"}").unwrap(), ClientOrder::List { name: None });
        let set = "{\"order\": \"set\", \"name\": \"a\", \"rights\": {\"speaks\": {\"user\": {\"uid\": 7, \"gid\": 8}}}}";
        assert!(matches!(read(set).unwrap(), ClientOrder::Set { .. }));
        for wrong in [
            "{\"order\": \"revoke\"}",
            "{\"order\": \"list\", \"all\": true}",
            "{\"order\": \"set\", \"name\": \"a\", \"rights\": {\"root\": true}}",
            "{\"order\": \"else\"}",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let authority = |text: &str| serde_json::from_str::<AuthorityOrder>(text);
        assert_eq!(authority("{\"order\": \"rotate\"}").unwrap(), AuthorityOrder::Rotate {});
        assert!(authority("{\"order\": \"rotate\", \"by\": 1}").is_err());
    }
}
