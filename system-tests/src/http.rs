//! A request to a running `up`, without any client of ours: plain HTTP/1.1 over a socket.

use std::io::{Read, Write};
use std::net::TcpStream;

/// What came back.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// The body as JSON, or null.
    pub json: serde_json::Value,
}

/// `GET path`.
///
/// # Errors
/// The socket's error, when nobody listens or the peer dies.
pub fn get(port: u16, path: &str) -> std::io::Result<Response> {
    request(port, "GET", path, "")
}

/// `POST path` with a JSON body.
///
/// # Errors
/// As [`get`].
pub fn post_json(port: u16, path: &str, body: &serde_json::Value) -> std::io::Result<Response> {
    request(port, "POST", path, &body.to_string())
}

/// Sends `POST path` and does not wait for the answer.
///
/// # Errors
/// As [`get`].
pub fn begin_post(port: u16, path: &str, body: &serde_json::Value) -> std::io::Result<InFlight> {
    begin(port, "POST", path, &body.to_string())
}

/// A request whose answer has not been read.
#[derive(Debug)]
pub struct InFlight(TcpStream);

impl InFlight {
    /// Waits for the answer.
    ///
    /// # Errors
    /// As [`get`].
    pub fn finish(mut self) -> std::io::Result<Response> {
        let mut answer = String::new();
        self.0.read_to_string(&mut answer)?;
        let broken = || std::io::Error::from(std::io::ErrorKind::InvalidData);
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
        let status = head.split_whitespace().nth(1).and_then(|s| s.parse().ok());
        let status = status.ok_or_else(broken)?;
        Ok(Response { status, json: serde_json::from_str(body).unwrap_or_default() })
    }
}

fn request(port: u16, method: &str, path: &str, body: &str) -> std::io::Result<Response> {
    begin(port, method, path, body)?.finish()
}

fn begin(port: u16, method: &str, path: &str, body: &str) -> std::io::Result<InFlight> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nx-api-key: tml-test\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(InFlight(stream))
}
