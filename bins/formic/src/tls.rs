//! TLS for the API over TCP: rustls with aws-lc, version 1.3 alone. Certificates come from files; the authorities of the
//! system are not asked, for a server's API is nobody's web site.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::exit::{Failure, Outcome};

/// What is spoken: HTTP/2, or HTTP/1.1.
pub(crate) const H2: &[u8] = b"h2";
pub(crate) const HTTP1: &[u8] = b"http/1.1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn certificates(path: &Path) -> Outcome<Vec<CertificateDer<'static>>> {
    let failed = |error: rustls::pki_types::pem::Error| {
        Failure::user(format!("{} has no certificates that can be read", path.display()))
            .because(error)
            .help("it must be a file of certificates in PEM")
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(failed)?.collect();
    let found = found.map_err(failed)?;
    if found.is_empty() { Err(failed(rustls::pki_types::pem::Error::NoItemsFound)) } else { Ok(found) }
}

fn key(path: &Path) -> Outcome<PrivateKeyDer<'static>> {
    let shown = path.display();
    let mode = std::fs::metadata(path).map(|meta| meta.mode());
    let mode = mode.map_err(|error| Failure::user(format!("cannot read {shown}")).because(error))?;
    if mode & 0o007 != 0 {
        return Err(Failure::user(format!(
            "the private key {shown} is open to everybody: its mode is {:04o}",
            mode & 0o7777
        ))
        .help(format!("`chmod 600 {shown}`, and a new key if others had the time to read it")));
    }
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        Failure::user(format!("{shown} has no private key that can be read"))
            .because(error)
            .help("it must be one in PEM: PKCS#8, PKCS#1 or SEC1, and not encrypted")
    })
}

fn roots(path: &Path) -> Outcome<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| {
            Failure::user(format!("{} is no authority's certificate", path.display())).because(error)
        })?;
    }
    Ok(roots)
}

fn unfit(certificate: &Path, key: &Path) -> Failure {
    Failure::user(format!("{} and {} do not fit together", certificate.display(), key.display()))
}

/// A server's side. With the authority of its callers, nobody comes in without a certificate of it.
pub(crate) fn server(certificate: &Path, key_file: &Path, client_ca: Option<&Path>) -> Outcome<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::bug("TLS").because(error))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider());
            let verifier = verifier.build().map_err(|error| {
                Failure::user(format!("{} is no authority for callers", path.display())).because(error)
            })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(certificates(certificate)?, key(key_file)?)
        .map_err(|error| unfit(certificate, key_file).because(error))?;
    config.alpn_protocols = vec![H2.into(), HTTP1.into()];
    Ok(config)
}

/// A caller's side: the authority that the server's certificate is of, and the caller's own certificate and key.
pub(crate) fn client(ca: &Path, own: Option<(&Path, &Path)>) -> Outcome<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::bug("TLS").because(error))?
        .with_root_certificates(roots(ca)?);
    match own {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key_file)) => builder
            .with_client_auth_cert(certificates(certificate)?, key(key_file)?)
            .map_err(|error| unfit(certificate, key_file).because(error)),
    }
}

/// Who a certificate is of, for the history: its common name, else its first DNS name, else its digest.
pub(crate) fn name_in(certificate: &CertificateDer<'_>) -> String {
    let digest = || blake3::hash(certificate).to_hex().chars().take(16).collect::<String>();
    let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else { return digest() };
    let name = common_name(parsed.subject()).or_else(|| parsed.valid_dns_names().next().map(str::to_owned));
    let name: String = name.unwrap_or_default().chars().filter(|c| !c.is_control()).take(64).collect();
    if name.trim().is_empty() { digest() } else { name }
}

/// The common name in a subject, which is a sequence of sets of (OID, string).
fn common_name(subject: &[u8]) -> Option<String> {
    /// 2.5.4.3 as DER has it.
    const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];
    let at = subject.windows(COMMON_NAME.len()).position(|window| window == COMMON_NAME)?;
    let value = subject.get(at + COMMON_NAME.len()..)?;
    // UTF8String, PrintableString, IA5String; names of over 127 bytes are not looked at.
    let [0x0c | 0x13 | 0x16, length @ 0..0x80, rest @ ..] = value else { return None };
    std::str::from_utf8(rest.get(..usize::from(*length))?).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_name_is_found_in_a_subject() {
        let subject =
            b"\x31\x0b\x30\x09\x06\x03\x55\x04\x0a\x0c\x02AG\x31\x0d\x30\x0b\x06\x03\x55\x04\x03\x0c\x04anna";
        assert_eq!(common_name(subject).as_deref(), Some("anna"));
        assert_eq!(common_name(&subject[..subject.len() - 1]), None, "cut off");
        assert_eq!(common_name(b""), None);
        assert_eq!(name_in(&CertificateDer::from(vec![1, 2, 3])).len(), 16);
    }
}
