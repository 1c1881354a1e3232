//! Connections that can be cut on request: before the answer, or in the middle of it.
//!
//! Everything that goes over the wire goes through here unchanged until a fault says otherwise.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// The switch of one connection, which whoever answers on it holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cut(Arc<AtomicU8>);

const WHOLE: u8 = 0;
const HALF: u8 = 1;
const NOTHING: u8 = 2;

impl Cut {
    /// Nothing more is written: the client sees the connection end.
    pub(crate) fn now(&self) {
        self.0.store(NOTHING, Ordering::Relaxed);
    }

    /// Half of the next write, then nothing.
    pub(crate) fn halfway(&self) {
        self.0.store(HALF, Ordering::Relaxed);
    }
}

impl Connected<IncomingStream<'_, Wire>> for Cut {
    fn connect_info(stream: IncomingStream<'_, Wire>) -> Self {
        stream.io().cut.clone()
    }
}

#[derive(Debug)]
pub(crate) struct Wire(pub(crate) TcpListener);

impl Listener for Wire {
    type Io = Line;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.0.accept().await {
                Ok((stream, peer)) => return (Line { stream, cut: Cut::default() }, peer),
                // Out of file descriptors, most likely: wait for some to come back.
                Err(error) => {
                    eprintln!("accept: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

#[derive(Debug)]
pub(crate) struct Line {
    stream: TcpStream,
    cut: Cut,
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let part = match self.cut.0.load(Ordering::Relaxed) {
            WHOLE => return Pin::new(&mut self.stream).poll_write(cx, buf),
            HALF => buf.get(..buf.len() / 2).unwrap_or_default(),
            _ => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        };
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, part));
        self.cut.now();
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
