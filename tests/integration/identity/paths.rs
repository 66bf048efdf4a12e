//! Paths that are not exactly those of an RPC reach no handler.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use countersign::proto::{OpenSessionRequest, OpenSessionResponse};
use tonic::Code;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use crate::harness::Server;
use crate::harness::flow::*;
use crate::harness::{PATIENCE, fresh_id};

const RIGHT: &str = "/countersign.v1.SessionService/OpenSession";

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_nearly_right_is_unimplemented() {
    let server = Server::dev().await;
    let token = server.token(AGENT, None, &[]);
    let call = async |path: &str| {
        let mut grpc = Grpc::new(server.channel().await);
        grpc.ready().await.unwrap();
        let message = OpenSessionRequest {
            purpose: "a test".to_owned(),
            request_id: fresh_id(),
            ..OpenSessionRequest::default()
        };
        let codec = ProstCodec::<OpenSessionRequest, OpenSessionResponse>::default();
        let path: PathAndQuery = path.parse().unwrap();
        grpc.unary(Server::request(message, &token, &[]), path, codec).await.map(drop).map_err(|status| status.code())
    };
    for path in [
        "//countersign.v1.SessionService/OpenSession",
        "/countersign.v1.SessionService//OpenSession",
        "/countersign.v1.SessionService%2FOpenSession",
        "/countersign.v1.SessionService/OpenSession/",
        "/countersign.v1.SessionService/OpenSession%00",
        "/countersign.v1.SessionService/opensession",
        "/countersign.v1.SessionService/",
        "/countersign.v1.SessionService",
        "/countersign.v1.sessionservice/OpenSession",
        "/x/../countersign.v1.SessionService/OpenSession",
        "/countersign.v1.SessionService/%4fpenSession",
        "/countersign.v2.SessionService/OpenSession",
        "/",
    ] {
        assert_eq!(call(path).await, Err(Code::Unimplemented), "{path}");
    }
    assert_eq!(call(RIGHT).await, Ok(()));
    let kinds = server.audit_kinds_since(0).await;
    assert_eq!(kinds.get("session_opened"), Some(&1), "one attempt reached its handler");
    assert_eq!(kinds.get("refusal"), None);
}

/// A client library would not send this, so the frames are written by hand (RFC 9113).
#[tokio::test(flavor = "multi_thread")]
async fn a_path_without_a_slash_is_no_path() {
    let server = Server::dev().await;
    let address = server.endpoint().trim_start_matches("http://").to_owned();
    let token = server.token(AGENT, None, &[]);
    let path = RIGHT.trim_start_matches('/').to_owned();
    let seen = tokio::task::spawn_blocking(move || frames_after(&address, &path, &token));
    let seen = tokio::time::timeout(PATIENCE, seen).await.unwrap().unwrap();
    // The stream is reset, the connection is closed, or headers alone tell a status: never a message.
    assert!(!seen.contains(&DATA), "{seen:?}");
    assert_eq!(server.audit_kinds_since(0).await.get("session_opened"), None);
    open(&server.person(AGENT).await).await;
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// Sends one request with this path, and returns the types of the frames on its stream until it is over.
fn frames_after(address: &str, path: &str, token: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", address),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("authorization", &format!("Bearer {token}")),
    ] {
        // A literal that is not indexed (RFC 7541 §6.2.2), with its lengths as 7-bit prefix integers.
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    let purpose = b"\x0a\x06a test";
    let mut message = vec![0, 0, 0, 0, purpose.len() as u8];
    message.extend(purpose);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
    stream.write_all(&frame(HEADERS, 0x4, 1, &block)).unwrap();
    // The server may have closed already, which is an answer too.
    let _ = stream.write_all(&frame(DATA, 0x1, 1, &message));
    let mut seen = Vec::new();
    let mut head = [0; 9];
    while stream.read_exact(&mut head).is_ok() {
        let size = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; size];
        stream.read_exact(&mut payload).unwrap();
        let on_stream = head[8] == 1;
        let ended = on_stream && (head[3] == RST_STREAM || head[4] & 0x1 != 0) || head[3] == GOAWAY;
        if on_stream || head[3] == GOAWAY {
            seen.push(head[3]);
        }
        if ended {
            break;
        }
    }
    seen
}

fn length(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        block.push(length as u8);
        return;
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    block.push(rest as u8);
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![size[1], size[2], size[3], kind, flags, 0, 0, 0, stream];
    frame.extend(payload);
    frame
}
