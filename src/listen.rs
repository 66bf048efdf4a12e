//! Connections, no more at once than allowed. A listener that runs out of file descriptors waits and goes on.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// How long to wait when the operating system cannot give another connection.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);

/// How long a new connection may take to say what it is: HTTP/2 begins with 24 bytes, and TLS with more. After that the
/// protocol's own keepalive looks after it.
const FIRST_WORDS: Duration = Duration::from_secs(10);
const PREFACE_BYTES: usize = 24;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A connection that requests come over.
#[derive(Debug)]
pub enum Connection {
    /// In plaintext, on loopback.
    Plain(Counted),
    /// In TLS.
    Secured(Box<TlsStream<Counted>>),
}

/// Connections with TLS, if there is a configuration for it. Handshakes wait for nobody but themselves; one that fails is
/// a connection that there is not.
pub fn secured(
    incoming: impl Stream<Item = io::Result<Counted>>,
    tls: Option<Arc<ServerConfig>>,
    most: usize,
) -> impl Stream<Item = io::Result<Connection>> {
    let Some(config) = tls else { return incoming.map_ok(Connection::Plain).left_stream() };
    let acceptor = TlsAcceptor::from(config);
    let handshake = move |accepted: io::Result<Counted>| {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(accepted?)).await??;
            Ok::<_, io::Error>(Connection::Secured(Box::new(stream)))
        })
    };
    let done = |done: Result<io::Result<Connection>, _>| async move {
        done.ok()?.inspect_err(|error| tracing::debug!(%error, "no TLS handshake")).ok().map(Ok)
    };
    incoming.map(handshake).buffer_unordered(most).filter_map(done).right_stream()
}

/// A connection that counts as long as it is open.
#[derive(Debug)]
pub struct Counted {
    stream: TcpStream,
    /// Until when it must have said so much, while it has not.
    silent: Option<(Pin<Box<Sleep>>, usize)>,
    _permit: OwnedSemaphorePermit,
}

/// The connections of a listener. Beyond `most`, further ones wait in the operating system's queue.
pub fn incoming(listener: TcpListener, most: usize) -> impl Stream<Item = io::Result<Counted>> {
    let slots = Arc::new(Semaphore::new(most));
    futures::stream::unfold((listener, slots), |(listener, slots)| async move {
        let permit = Arc::clone(&slots).acquire_owned().await.ok()?;
        loop {
            match accept(&listener).await {
                Ok(stream) => {
                    let silent = Some((Box::pin(tokio::time::sleep(FIRST_WORDS)), PREFACE_BYTES));
                    return Some((Ok(Counted { stream, silent, _permit: permit }), (listener, slots)));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; trying again");
                    tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
                }
            }
        }
    })
}

async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _peer): (TcpStream, SocketAddr) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some((deadline, wanted)) = &mut self.silent {
            *wanted = wanted.saturating_sub(buf.filled().len().saturating_sub(before));
            if *wanted == 0 {
                self.silent = None;
            } else if read.is_pending() && deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What is known of whoever is at the other end.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The certificates that they proved themselves with, their own first; none if they did not.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        let certificates = match self {
            Self::Plain(_) => None,
            Self::Secured(stream) => stream.get_ref().1.peer_certificates(),
        };
        Peer { certificates: certificates.unwrap_or_default().into() }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(counted) => Pin::new(counted).poll_read(cx, buf),
            Self::Secured(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(counted) => Pin::new(counted).poll_write(cx, buf),
            Self::Secured(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(counted) => Pin::new(counted).poll_write_vectored(cx, bufs),
            Self::Secured(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }
    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(counted) => counted.is_write_vectored(),
            Self::Secured(stream) => stream.is_write_vectored(),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(counted) => Pin::new(counted).poll_flush(cx),
            Self::Secured(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(counted) => Pin::new(counted).poll_shutdown(cx),
            Self::Secured(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
