//! Questions that others know the answer to: asked upstream, one server after the other.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;

use super::cache::{Answer, Cache, Question};
use super::upstream;

/// What one server gets for an answer before the next one is asked.
const ATTEMPT: Duration = Duration::from_millis(1200);
/// Whoever asked us gives up after 5 seconds (resolv.conf(5)), and is told before.
const ALL_ATTEMPTS: Duration = Duration::from_millis(4500);
/// How often each server is asked.
const ROUNDS: usize = 2;
/// For how long a server that did not answer is asked last.
const SUSPICION: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Forwarder {
    cache: Mutex<Cache>,
    /// Questions that are being asked: who has the same one waits for the same answer, so that
    /// many askers are no load upstream, and no chance for one who guesses ids (RFC 5452 clause 5).
    asked: Mutex<HashMap<Question, watch::Receiver<Option<Arc<Answer>>>>>,
    /// Servers that did not answer, and until when they are suspected for it.
    suspects: Mutex<HashMap<SocketAddr, Instant>>,
}

impl Forwarder {
    /// An answer that is remembered, and its age in seconds.
    pub(super) fn remembered(&self, question: &Question) -> Option<(Arc<Answer>, u32)> {
        self.cache.lock().get(question, Instant::now())
    }

    /// Forgets answers, and which servers were silent: the network is another one.
    pub(super) fn forget(&self) {
        self.cache.lock().clear();
        self.suspects.lock().clear();
    }

    /// The answer of the first server that has one; a failure if none has.
    pub(super) async fn ask(self: &Arc<Self>, question: Question, asker: IpAddr) -> Arc<Answer> {
        let mut answer = self.asking(question, asker);
        let answered = answer.wait_for(Option::is_some).await;
        let answer = answered.ok().and_then(|answer| answer.clone());
        answer.unwrap_or_else(|| Arc::new(Answer::failure()))
    }

    /// Where the answer will be. Asking goes on when nobody waits any more, for the cache.
    fn asking(
        self: &Arc<Self>,
        question: Question,
        asker: IpAddr,
    ) -> watch::Receiver<Option<Arc<Answer>>> {
        let mut asked = self.asked.lock();
        if let Some(answer) = asked.get(&question) {
            return answer.clone();
        }
        let (sender, receiver) = watch::channel(None);
        asked.insert(question.clone(), receiver.clone());
        let forwarder = Arc::clone(self);
        tokio::spawn(async move {
            let answer = timeout(ALL_ATTEMPTS, forwarder.ask_all(&question)).await;
            let answer = Arc::new(answer.unwrap_or_else(|_| Answer::failure()));
            let now = Instant::now();
            forwarder
                .cache
                .lock()
                .put(question.clone(), Arc::clone(&answer), asker, now);
            forwarder.asked.lock().remove(&question);
            sender.send_replace(Some(answer));
        });
        receiver
    }

    async fn ask_all(&self, question: &Question) -> Answer {
        for _ in 0..ROUNDS {
            let mut refusal = None;
            for server in self.by_reputation(&question.servers) {
                match timeout(ATTEMPT, upstream::ask(server, question)).await {
                    Ok(Ok(message)) => {
                        self.suspects.lock().remove(&server);
                        match message.metadata.response_code {
                            ResponseCode::NoError | ResponseCode::NXDomain => {
                                return Answer::new(message);
                            }
                            _ => refusal = Some(message),
                        }
                    }
                    Ok(Err(error)) => {
                        tracing::debug!("can't ask {server} for names: {error}");
                        self.suspect(server);
                    }
                    Err(_) => {
                        tracing::debug!("{server} did not answer within {ATTEMPT:?}");
                        self.suspect(server);
                    }
                }
            }
            // Who can't answer now can't in the next second.
            if let Some(refusal) = refusal {
                return Answer::new(refusal);
            }
        }
        Answer::failure()
    }

    fn suspect(&self, server: SocketAddr) {
        let mut suspects = self.suspects.lock();
        let now = Instant::now();
        suspects.retain(|_, until| now < *until);
        suspects.insert(server, now + SUSPICION);
    }

    /// The servers in their order, the suspects last.
    fn by_reputation(&self, servers: &[SocketAddr]) -> Vec<SocketAddr> {
        let suspects = self.suspects.lock();
        let now = Instant::now();
        let mut servers = servers.to_vec();
        servers.sort_by_key(|server| suspects.get(server).is_some_and(|until| now < *until));
        servers
    }
}
