//! The API's socket: who is let in, and for how long who does nothing may stay.
//!
//! Each connection is a share of its user's ([`Shares`]). A request's head must come within
//! [`HEAD_TIMEOUT`], and a user other than root and the daemon's own who takes nothing of an answer
//! for [`STALL_TIMEOUT`] is hung up on, so what such a one holds comes back. Some descriptors are
//! kept in reserve, for the process may have used up all others.

use std::fs::File;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::errno::Errno;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::access::Peer;
use super::shares::{Holder, Permit, Shares};

/// For the head of a request, the next one of a connection too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// For taking some more of an answer.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a request's head, and of an answer that wait for the client, at the most.
const BUFFER: usize = 64 * 1024;
/// Descriptors kept for the API alone.
const RESERVE: usize = 8;
/// After an error that another try at once would meet again.
const PAUSE: Duration = Duration::from_millis(20);

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
    Content-Length: 77\r\nConnection: close\r\n\r\n\
    {\"error\":\"too many connections of yours are open: close some, and try again\"}";

/// Serves all who connect. Ends only with what it is part of.
pub(super) async fn serve(listener: UnixListener, router: Router, shares: Arc<Shares>) {
    let reserve = Arc::new(Reserve::new());
    let mut failing = false;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                let used_up = matches!(error.raw_os_error(), Some(it) if is_out_of(it));
                if used_up && reserve.give_one() {
                    continue;
                }
                if !failing {
                    tracing::warn!("can't accept a connection to the API: {error}");
                }
                failing = true;
                sleep(PAUSE).await;
                continue;
            }
        };
        failing = false;
        let peer = Peer::of(&stream);
        let Some(permit) = shares.connection(peer.holder()) else {
            // It fits in an empty buffer; and who does not read it is no loss.
            let _ = stream.try_write(FULL);
            reserve.fill();
            continue;
        };
        let holder = peer.holder();
        let router = router.clone().layer(Extension(ConnectInfo(peer)));
        let connection = converse(stream, holder, router);
        let reserve = Arc::clone(&reserve);
        tokio::spawn(async move {
            connection.await;
            finish(permit, &reserve);
        });
    }
}

fn finish(permit: Permit, reserve: &Reserve) {
    drop(permit);
    reserve.fill();
}

async fn converse(stream: UnixStream, holder: Holder, router: Router) {
    let patience = match holder {
        Holder::Owner => None,
        Holder::Other(_) => Some(STALL_TIMEOUT),
    };
    let stream = Impatient {
        stream,
        patience,
        stalled: None,
    };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::debug!("a connection to the API was cut: {error}");
    }
}

fn is_out_of(error: i32) -> bool {
    matches!(Errno::from_raw(error), Errno::EMFILE | Errno::ENFILE)
}

/// Descriptors of nothing, each of which can make place for a connection.
struct Reserve(Mutex<Vec<File>>);

impl Reserve {
    fn new() -> Reserve {
        let reserve = Reserve(Mutex::default());
        reserve.fill();
        reserve
    }

    /// Frees a descriptor; false if none is left.
    fn give_one(&self) -> bool {
        self.held().pop().is_some()
    }

    fn fill(&self) {
        let mut held = self.held();
        while held.len() < RESERVE
            && let Ok(nothing) = File::open("/dev/null")
        {
            held.push(nothing);
        }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Vec<File>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection whose other end must go on taking what is written, if it has something to take.
struct Impatient {
    stream: UnixStream,
    patience: Option<Duration>,
    /// Since nothing could be written; with it, when that is too long.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Impatient {
    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let Some(patience) = self.patience else {
            return outcome;
        };
        let end = || Box::pin(sleep_until(Instant::now() + patience));
        match self.stalled.get_or_insert_with(end).as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Impatient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn the_refusal_is_as_long_as_it_says() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())),
            "{}",
            body.len()
        );
        serde_json::from_str::<crate::api::ErrorBody>(body).unwrap();
    }

    #[tokio::test]
    async fn who_takes_nothing_is_hung_up_on() {
        let (stream, mut peer) = UnixStream::pair().unwrap();
        let mut stream = Impatient {
            stream,
            patience: Some(Duration::from_millis(300)),
            stalled: None,
        };
        let data = vec![7; 1 << 20];
        let error = stream.write_all(&data).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // One that reads on in time stays.
        let mut taken = vec![0; 1 << 20];
        peer.read_exact(&mut taken[..4096]).await.unwrap();
        stream.stalled = None;
        let reading = tokio::spawn(async move { peer.read_to_end(&mut taken).await });
        stream.write_all(&data).await.unwrap();
        drop(stream);
        reading.await.unwrap().unwrap();
    }

    #[test]
    fn a_reserve_gives_and_is_filled_again() {
        let reserve = Reserve::new();
        let given = (0..100).take_while(|_| reserve.give_one()).count();
        assert_eq!(given, RESERVE);
        reserve.fill();
        assert!(reserve.give_one());
    }
}
