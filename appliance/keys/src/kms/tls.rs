//! TLS for the KMS client: which certificates are believed, and the handshake.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Why there is no secure connection.
#[derive(Debug, Error)]
pub(super) enum TlsError {
    #[error("AWS_CA_BUNDLE: {}: no certificates can be read: {cause}", path.display())]
    Bundle { path: PathBuf, cause: rustls::pki_types::pem::Error },
    #[error(
        "no certificates of authorities: install ca-certificates, or name a file in AWS_CA_BUNDLE{0}"
    )]
    NoRoots(String),
    #[error("`{0:.120}` is not a server's name")]
    Name(String),
    #[error(transparent)]
    Configuration(rustls::Error),
    #[error(transparent)]
    Handshake(io::Error),
}

/// Makes connections. Certificates are read when the first one is made: a plain endpoint needs none.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    bundle: Option<PathBuf>,
}

impl Tls {
    /// Believes the authorities of `bundle` (PEM) alone; without one, those of the system.
    pub(super) fn new(bundle: Option<&str>) -> Self {
        Self { bundle: bundle.map(PathBuf::from) }
    }

    /// Secures `stream` to the server `host`.
    ///
    /// # Errors
    /// [`TlsError`]. The server is believed only with a certificate for `host` of an authority that is believed.
    pub(super) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, TlsError> {
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))?;
        let connector = TlsConnector::from(Arc::new(self.configuration()?));
        connector.connect(name, stream).await.map_err(TlsError::Handshake)
    }

    fn configuration(&self) -> Result<ClientConfig, TlsError> {
        let roots = match &self.bundle {
            Some(path) => bundled(path)?,
            None => native()?,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder =
            builder.with_safe_default_protocol_versions().map_err(TlsError::Configuration)?;
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

fn bundled(path: &Path) -> Result<RootCertStore, TlsError> {
    let wrong = |cause| TlsError::Bundle { path: path.to_owned(), cause };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(wrong)? {
        roots.add(certificate.map_err(wrong)?).map_err(TlsError::Configuration)?;
    }
    if roots.is_empty() {
        return Err(wrong(rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(roots)
}

fn native() -> Result<RootCertStore, TlsError> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A system's store may hold certificates of old forms; those that can be read are enough.
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let first = loaded.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(TlsError::NoRoots(first));
    }
    Ok(roots)
}
