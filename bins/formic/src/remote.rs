//! A server that is reached over TCP: where it is, how to prove to it who calls, and what it says at the door.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use formic_client::{BoxIo, Client, Connect, Transport};
use formic_core::Endpoint;
use formic_registry::Memory;
use formic_rpc::{BoxFuture, Call, Channel, Next};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::exit::{Failure, Outcome};
use crate::{cli, tls, token};

/// The door's first answer, which is slow only for those who are not let in.
const DOOR: Duration = Duration::from_secs(10);
/// Metrics of a thousand instances have some 2 MB.
const MAX_PAGE: u64 = 64 << 20;

/// The way to one.
#[derive(Clone)]
pub(crate) struct Remote(Arc<Way>);

struct Way {
    /// As it was given.
    url: String,
    host: String,
    port: u16,
    secure: Option<(ClientConfig, ServerName<'static>)>,
    authorization: Option<String>,
}

/// What a URL says.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    secure: bool,
    host: String,
    port: u16,
}

impl Address {
    fn parse(url: &str) -> Option<Self> {
        let (secure, rest) = match url.split_once("://")? {
            ("https", rest) => (true, rest),
            ("http", rest) => (false, rest),
            _ => return None,
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '@', '?', '#']) {
            return None;
        }
        let (host, port) = authority.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(host) => host.strip_suffix(']')?,
            None if host.contains(':') => return None,
            None => host,
        };
        if host.is_empty() {
            return None;
        }
        Some(Self { secure, host: host.into(), port: port.parse().ok().filter(|port| *port != 0)? })
    }
}

impl Remote {
    /// What the command line and the environment say; nothing if they name no server.
    pub(crate) fn of(args: &cli::Remote) -> Outcome<Option<Self>> {
        // A token without a server is no fault: the environment may have it for the next command, and the socket needs none.
        let Some(url) = args.url() else { return Ok(None) };
        let address = Address::parse(url).ok_or_else(|| {
            Failure::user(format!("{url:?} is no server's address"))
                .help("write https://host:port, or http://127.0.0.1:port for one of this machine")
        })?;
        let authorization = args.token_file.as_deref().map(token::read).transpose()?;
        let authorization = match authorization.as_deref() {
            None => None,
            Some([token]) => Some(format!("Bearer {}", token.secret)),
            Some(tokens) => {
                return Err(Failure::user(format!("the token file has {} tokens", tokens.len()))
                    .help("a caller's file has one, its own; the server's file has those of all"));
            }
        };
        let secure = if address.secure { Some(secure(args, &address.host)?) } else { None };
        let Address { host, port, .. } = address;
        Ok(Some(Self(Arc::new(Way { url: url.to_owned(), host, port, secure, authorization }))))
    }

    pub(crate) fn url(&self) -> &str {
        &self.0.url
    }

    /// Asks at the door, where what is wrong is told apart.
    pub(crate) async fn knock(&self) -> Outcome {
        let page = match tokio::time::timeout(DOOR, self.page("/healthz")).await {
            Ok(Ok(page)) => page,
            Ok(Err(error)) => return Err(self.failed(error)),
            Err(_) => return Err(Failure::unreachable(format!("{} does not answer", self.url()))),
        };
        match page.status {
            200 => Ok(()),
            401 if self.0.authorization.is_none() => Err(Failure::user(format!("{} asks for a token", self.url()))
                .help("name a file with it: --token-file FILE or FORMIC_TOKEN_FILE")),
            401 => Err(Failure::user(format!("{} does not know this token", self.url()))
                .help("it may have been revoked, or be another server's: `formic server token` on its machine makes one")),
            429 => Err(Failure::unreachable(format!("{} is busy with wrong tokens", self.url()))
                .help("try again in a minute; its log says where they come from")),
            status => Err(Failure::unreachable(format!("{} answers {status}", self.url()))
                .help("is it the API of a `formic server --listen`?")),
        }
    }

    /// A channel to its API.
    pub(crate) fn channel(&self) -> Channel {
        let authorization = self.0.authorization.clone();
        let authorize = move |mut call: Call, next: Next| {
            let put = authorization.as_deref().map_or(Ok(()), |it| call.metadata.insert("authorization", it));
            async move {
                put.map_err(|error| formic_core::Error::invalid_argument(error.to_string()))?;
                next.run(call).await
            }
        };
        let config = formic_client::Config {
            // Another machine, perhaps another continent.
            timeout: Duration::from_secs(15),
            connect_timeout: DOOR,
            connector: Some(Arc::new(self.clone())),
            transport: Transport::Http,
            interceptors: vec![Arc::new(authorize)],
            ..formic_client::Config::default()
        };
        // Where it goes is the connector's; the name is what errors call it.
        let unresolved = SocketAddr::from(([0, 0, 0, 0], self.0.port));
        Client::new(Arc::new(Memory::new()), config).at(Endpoint::Tcp(unresolved))
    }

    /// A page of it, whole.
    pub(crate) async fn get(&self, path: &str, patience: Duration) -> Outcome<String> {
        match tokio::time::timeout(patience, self.page(path)).await {
            Ok(Ok(Page { status: 200, body })) => Ok(body),
            Ok(Ok(Page { status, .. })) => {
                Err(Failure::unreachable(format!("{} answers {status}", self.url())))
            }
            Ok(Err(error)) => Err(self.failed(error)),
            Err(_) => Err(Failure::unreachable(format!("{} does not answer in time", self.url()))),
        }
    }

    fn failed(&self, error: io::Error) -> Failure {
        let text = error.to_string();
        let failure = Failure::unreachable(format!("cannot talk to {}", self.url())).because(error);
        let help = if text.contains("CertificateRequired") {
            "it asks for a certificate: --tls-cert FILE --tls-key FILE"
        } else if text.contains("UnknownIssuer") {
            "its certificate is of another authority than --tls-ca names"
        } else if text.contains("not valid for name") {
            "its certificate is for another name than the URL has"
        } else if text.contains("UnknownCA")
            || text.contains("BadCertificate")
            || text.contains("DecryptError")
        {
            "it does not take this certificate: is it of the authority that the server asks for?"
        } else if text.contains("InvalidContentType") || text.contains("InvalidMessage") {
            "it does not speak TLS there: http:// instead of https://?"
        } else if text.contains("refused") {
            "does its `formic server` run with --listen?"
        } else {
            return failure;
        };
        failure.help(help)
    }

    /// A GET by HTTP/1.1 on a connection of its own.
    async fn page(&self, path: &str) -> io::Result<Page> {
        let mut stream = self.open(tls::HTTP1).await?;
        let authorization = self.0.authorization.iter().map(|it| format!("Authorization: {it}\r\n"));
        let authorization: String = authorization.collect();
        let head = format!("GET {path} HTTP/1.1\r\nHost: formic\r\nConnection: close\r\n{authorization}\r\n");
        stream.write_all(head.as_bytes()).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        // An end without a farewell is no fault where the length is told.
        let read = stream.take(MAX_PAGE).read_to_end(&mut answer).await;
        match Page::parse(&answer) {
            Some(page) => Ok(page),
            None => {
                read?;
                Err(io::Error::new(io::ErrorKind::InvalidData, "it does not answer as HTTP does"))
            }
        }
    }

    async fn open(&self, protocol: &[u8]) -> io::Result<BoxIo> {
        let way = &self.0;
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", way.host));
        for address in tokio::net::lookup_host((way.host.as_str(), way.port)).await? {
            if way.secure.is_none() && way.authorization.is_some() && !address.ip().is_loopback() {
                let text = "a token would cross the network for everybody to read; use https://, or a tunnel";
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
            }
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    let Some((config, name)) = &way.secure else { return Ok(Box::new(stream)) };
                    let mut config = config.clone();
                    config.alpn_protocols = vec![protocol.to_vec()];
                    let connector = TlsConnector::from(Arc::new(config));
                    return Ok(Box::new(connector.connect(name.clone(), stream).await?));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Connect for Remote {
    fn connect(&self, _: &Endpoint) -> BoxFuture<'static, io::Result<BoxIo>> {
        let remote = self.clone();
        Box::pin(async move { remote.open(tls::H2).await })
    }
}

/// TLS as the command line has it.
fn secure(args: &cli::Remote, host: &str) -> Outcome<(ClientConfig, ServerName<'static>)> {
    let Some(ca) = &args.tls_ca else {
        return Err(Failure::user("whose word counts for the server's certificate is not said")
            .help("name the authority: --tls-ca FILE or FORMIC_TLS_CA; of a certificate that signs itself, the certificate"));
    };
    let own = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => Some((PathBuf::as_path(certificate), PathBuf::as_path(key))),
        (None, None) => None,
        _ => return Err(Failure::user("a certificate needs its key").help("--tls-cert FILE --tls-key FILE")),
    };
    let name = match host.parse::<IpAddr>() {
        Ok(address) => ServerName::from(address),
        Err(_) => ServerName::try_from(host.to_owned())
            .map_err(|error| Failure::user(format!("{host:?} is no name of a host")).because(error))?,
    };
    Ok((tls::client(ca, own)?, name))
}

/// What a page is answered.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    status: u16,
    body: String,
}

impl Page {
    fn parse(answer: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(answer).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut words = head.lines().next()?.split(' ');
        if words.next()? != "HTTP/1.1" {
            return None;
        }
        let status = words.next()?.parse().ok()?;
        let length = head.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
        });
        // Cut off is no answer.
        let body = length.map_or(Some(body), |length| body.get(..length))?;
        Some(Self { status, body: body.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let address = |secure, host: &str, port| Some(Address { secure, host: host.into(), port });
        assert_eq!(Address::parse("https://shop.example:7700"), address(true, "shop.example", 7700));
        assert_eq!(Address::parse("http://127.0.0.1:7700/"), address(false, "127.0.0.1", 7700));
        assert_eq!(Address::parse("https://[::1]:1"), address(true, "::1", 1));
        for bad in [
            "",
            "shop:1",
            "ftp://a:1",
            "https://a",
            "https://a:0",
            "https://a:x",
            "https://:1",
            "https://::1:1",
            "https://a:1/path",
            "https://u:p@a:1",
        ] {
            assert_eq!(Address::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn pages() {
        let page = |text: &str| Page::parse(text.as_bytes()).map(|page| (page.status, page.body));
        assert_eq!(page("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), Some((200, "ok".into())));
        assert_eq!(page("HTTP/1.1 401 No\r\n\r\n"), Some((401, String::new())));
        for bad in ["", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"] {
            assert_eq!(page(bad), None, "{bad}");
        }
    }
}
