//! HTTP/1.1 by hand, as far as tests of the gateway need it: what is sent is exactly what the test says.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// No answer of the tests takes longer, on a busy machine either.
const LIMIT: Duration = Duration::from_secs(60);

/// A gateway, or any server on loopback.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// `host:port`.
    pub authority: String,
}

/// What it answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Gateway {
    /// `http://host:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.authority)
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// If the connection breaks, which it does when something on the way is killed.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        self.send_over(TcpStream::connect(&self.authority)?, method, path, headers, body)
    }

    /// The same over a connection that is there.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_over(
        &self,
        mut stream: TcpStream,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str(&format!("Host: {}\r\n", self.authority));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        stream.write_all(head.as_bytes())?;
        // A server may answer, and close, before it has read a body that it refuses.
        let sent = stream.write_all(body);
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        match Answer::parse(&bytes) {
            Some(answer) => Ok(answer),
            None => {
                sent?;
                read?;
                Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the answer is cut off"))
            }
        }
    }

    /// A call with JSON, as `POST` with metadata.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn try_call(&self, method: &str, request: &Value, token: Option<&str>) -> std::io::Result<Answer> {
        self.post(method, request, token, None)
    }

    /// The same by somebody who waits for as long as these tests do, and not for the gateway's fifteen seconds.
    ///
    /// # Errors
    /// As [`try_call`](Self::try_call).
    pub fn patient_call(
        &self,
        method: &str,
        request: &Value,
        token: Option<&str>,
    ) -> std::io::Result<Answer> {
        self.post(method, request, token, Some(LIMIT))
    }

    fn post(
        &self,
        method: &str,
        request: &Value,
        token: Option<&str>,
        limit: Option<Duration>,
    ) -> std::io::Result<Answer> {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let limit = limit.map(|limit| limit.as_millis().to_string());
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
        headers.extend(limit.as_deref().map(|limit| ("Connect-Timeout-Ms", limit)));
        self.send("POST", &format!("/{method}"), &headers, request.to_string().as_bytes())
    }

    /// A call that is answered.
    ///
    /// # Panics
    /// If it is not, or not with 200.
    #[must_use]
    pub fn call(&self, method: &str, request: &Value, token: Option<&str>) -> Value {
        let answer = self.try_call(method, request, token).unwrap();
        assert_eq!(answer.status, 200, "{method} {request}: {}", answer.text());
        answer.json()
    }
}

impl Answer {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let rest = &bytes[end + 4..];
        let body = if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            unchunk(rest)?
        } else {
            match headers.get("content-length").and_then(|length| length.parse::<usize>().ok()) {
                Some(length) => rest.get(..length)?.to_vec(),
                None => rest.to_vec(),
            }
        };
        Some(Self { status, headers, body })
    }

    /// A header.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The messages of a Connect stream, each with its flags.
    ///
    /// # Panics
    /// If the envelopes are broken.
    #[must_use]
    pub fn envelopes(&self) -> Vec<(u8, Value)> {
        envelopes(&self.body)
    }
}

/// Splits the body of a Connect stream: a byte of flags, four of length, JSON.
pub(crate) fn envelopes(mut body: &[u8]) -> Vec<(u8, Value)> {
    let mut found = Vec::new();
    while let Some((head, rest)) = body.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        assert!(rest.len() >= length, "an envelope is cut off");
        found.push((head[0], serde_json::from_slice(&rest[..length]).unwrap()));
        body = &rest[length..];
    }
    assert!(body.is_empty(), "bytes after the last envelope");
    found
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(end + 2..end + 2 + size)?);
        rest = rest.get(end + 2 + size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_with_a_length_and_in_chunks() {
        let plain =
            Answer::parse(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nX-A: b\r\n\r\n{}").unwrap();
        assert_eq!((plain.status, plain.header("x-a"), plain.text().as_str()), (404, "b", "{}"));
        let chunked =
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(Answer::parse(chunked).unwrap().text(), "abcde");
        assert!(Answer::parse(&chunked[..chunked.len() - 6]).is_none(), "cut off");
    }

    #[test]
    fn a_stream_is_split_at_its_envelopes() {
        let body = [&[0, 0, 0, 0, 2][..], b"{}", &[2, 0, 0, 0, 7], b"{\"a\":1}"].concat();
        assert_eq!(envelopes(&body), [(0, serde_json::json!({})), (2, serde_json::json!({"a": 1}))]);
    }
}
