//! Questions that others know the answer to: asked upstream, one server after the other.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_proto::op::{Message, ResponseCode};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;

use super::cache::{Answer, Cache, Manner, Question};
use super::upstream;

/// How long after a question to one server the next one is asked as well, at most; twice that in
/// the second round, four times in the third. The answer of the first counts all the same when it
/// comes.
const NEXT_AFTER: Duration = Duration::from_millis(1200);
/// How often each server is asked, unless the host's file says that.
const ROUNDS: u32 = 3;
/// How often one who asks does so, unless the host's file says that (resolv.conf(5)).
const ATTEMPTS: u32 = 2;
/// A server has this long, however little time the host's file gives it.
const SHORTEST: Duration = Duration::from_secs(3);
/// For longer nobody is asked, however often and long the host's file has it.
const LONGEST: Duration = Duration::from_secs(30);
/// How long before one who asks gives up he is told of a failure.
const BEFORE_HE_GIVES_UP: Duration = Duration::from_millis(200);
/// How long before that other servers have time for a better answer than a refusal.
const BETTER_ANSWER: Duration = Duration::from_millis(400);
/// For how long a server that did not answer is asked last.
const SUSPICION: Duration = Duration::from_secs(30);

/// For how long a server is asked without EDNS that has not answered with it.
const WITHOUT_EDNS: Duration = Duration::from_secs(300);

#[derive(Default)]
pub(super) struct Forwarder {
    cache: Mutex<Cache>,
    /// Questions that are being asked: who has the same one waits for the same answer, so that
    /// many askers are no load upstream, and no chance for one who guesses ids (RFC 5452 clause 5).
    asked: Mutex<HashMap<Question, watch::Receiver<Option<Arc<Answer>>>>>,
    /// Servers that did not answer, and until when they are suspected for it.
    suspects: Mutex<HashMap<SocketAddr, Instant>>,
    /// Servers that answer queries without EDNS only, and until when that is believed.
    without_edns: Mutex<HashMap<SocketAddr, Instant>>,
    /// How often all was forgotten.
    epoch: AtomicU64,
    /// Which server is the first one of the next question that lets them rotate.
    turn: AtomicUsize,
}

/// What the host's file says of times, made to fit those who ask and those who are asked. Asking
/// goes on while one who asked may ask once more: his second question meets the answer to his
/// first.
struct Pace {
    /// How often each server is asked.
    rounds: u32,
    /// For how long it waits for one server's answer until the next one is asked as well.
    next_after: Duration,
    /// For how long one who asked waits.
    patience: Duration,
    /// For how long answers are waited for.
    all: Duration,
}

impl Pace {
    fn of(manner: Manner) -> Pace {
        let timeout = Duration::from_secs(manner.timeout.into());
        let told_after = |timeout: Duration| timeout.saturating_sub(BEFORE_HE_GIVES_UP);
        let patience = told_after(timeout.clamp(SHORTEST, LONGEST));
        let all = told_after(timeout * manner.attempts.unwrap_or(ATTEMPTS));
        Pace {
            rounds: manner.attempts.unwrap_or(ROUNDS),
            next_after: timeout,
            patience,
            all: all.clamp(patience, LONGEST),
        }
    }

    /// How long after a question of a round the next one is put.
    fn step(&self, round: u32) -> Duration {
        (NEXT_AFTER * 2u32.pow(round)).min(self.next_after)
    }
}

impl Forwarder {
    /// An answer that is remembered, and its age in seconds.
    pub(super) fn remembered(&self, question: &Question) -> Option<(Arc<Answer>, u32)> {
        self.cache.lock().get(question, Instant::now())
    }

    /// Forgets answers, and which servers were silent: the network is another one.
    pub(super) fn forget(&self) {
        // Answers that are on their way are told to those who wait for them, and to nobody later.
        self.epoch.fetch_add(1, Ordering::Relaxed);
        self.cache.lock().clear();
        self.suspects.lock().clear();
        self.without_edns.lock().clear();
    }

    /// What every question of now has in its epoch.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// The answer of the first server that has one; a failure if none has.
    pub(super) async fn ask(self: &Arc<Self>, question: Question, asker: IpAddr) -> Arc<Answer> {
        let patience = patience(question.manner);
        let mut answer = self.asking(question, asker);
        let answered = timeout(patience, answer.wait_for(Option::is_some)).await;
        let answer = answered.ok().and_then(|it| it.ok()?.clone());
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
            let pace = Pace::of(question.manner);
            let answer = timeout(pace.all, forwarder.ask_all(&question, &pace)).await;
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

    /// Asks the servers in turn, without taking back what was asked of one that is slow.
    async fn ask_all(&self, question: &Question, pace: &Pace) -> Answer {
        let servers = self.in_order(question);
        let mut turns = Vec::with_capacity(servers.len() * pace.rounds as usize);
        for round in 0..pace.rounds {
            turns.extend(servers.iter().map(|server| (round, *server)));
        }
        let mut turns = turns.into_iter();
        let mut asking = FuturesUnordered::new();
        // What is told if no server says better: part of an answer, or why there is none.
        let mut parts: HashMap<SocketAddr, Answer> = HashMap::new();
        let mut refusals: HashMap<SocketAddr, Answer> = HashMap::new();
        let better_until = Instant::now() + pace.patience.saturating_sub(BETTER_ANSWER);
        // The last one that was asked and has said nothing, and until when it has for that.
        let (mut last, mut until) = (None, Some(Instant::now()));
        loop {
            if last.is_none() || until.is_some_and(|until| Instant::now() >= until) {
                if let Some(silent) = last.take() {
                    tracing::debug!("{silent} has not answered yet");
                    self.suspect(silent);
                }
                let next = turns.find(|(_, server)| {
                    !refusals.contains_key(server) && !parts.contains_key(server)
                });
                until = next.map(|(round, _)| Instant::now() + pace.step(round));
                last = next.map(|(_, server)| server);
                if let Some(server) = last {
                    asking.push(self.ask_one(server, question));
                }
            }
            if asking.is_empty() && last.is_none() {
                break;
            }
            let some = !refusals.is_empty() || !parts.is_empty();
            tokio::select! {
                Some((server, answer)) = asking.next() => {
                    match answer {
                        Ok(message) if is_answer(&message) => {
                            let truncated = message.metadata.truncation;
                            let answer = Answer::new(message);
                            if !truncated {
                                return answer;
                            }
                            parts.insert(server, answer);
                        }
                        Ok(message) => {
                            refusals.insert(server, Answer::new(message));
                        }
                        Err(error) => {
                            tracing::debug!("can't ask {server} for names: {error}");
                            self.suspect(server);
                        }
                    }
                    last = last.filter(|last| *last != server);
                }
                () = sleep_until(until), if until.is_some() => {}
                () = sleep_until(Some(better_until)), if some => break,
            }
            // Who can't answer now can't in the next second.
            let said = |server| refusals.contains_key(server) || parts.contains_key(server);
            if servers.iter().all(said) {
                break;
            }
        }
        let mut found = servers.iter().filter_map(|server| parts.remove(server));
        let part = found.next();
        let mut found = servers.iter().filter_map(|server| refusals.remove(server));
        part.or_else(|| found.next())
            .unwrap_or_else(Answer::failure)
    }

    async fn ask_one(
        &self,
        server: SocketAddr,
        question: &Question,
    ) -> (SocketAddr, io::Result<Message>) {
        let believed = self.without_edns.lock().get(&server).copied();
        let plain = believed.is_some_and(|until| Instant::now() < until);
        let answer = match upstream::ask(server, question, !plain).await {
            Ok(answer) => answer,
            Err(error) => return (server, Err(error)),
        };
        let (message, knows_edns) = answer;
        self.suspects.lock().remove(&server);
        if !plain && !knows_edns {
            let until = Instant::now() + WITHOUT_EDNS;
            self.without_edns.lock().insert(server, until);
        }
        (server, Ok(message))
    }

    fn suspect(&self, server: SocketAddr) {
        let mut suspects = self.suspects.lock();
        let now = Instant::now();
        suspects.retain(|_, until| now < *until);
        suspects.insert(server, now + SUSPICION);
    }

    /// The servers in the order in which they are asked, the suspects last.
    fn in_order(&self, question: &Question) -> Vec<SocketAddr> {
        let mut servers = question.servers.to_vec();
        if question.manner.rotate && !servers.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let first = turn % servers.len();
            servers.rotate_left(first);
        }
        let suspects = self.suspects.lock();
        let now = Instant::now();
        servers.sort_by_key(|server| suspects.get(server).is_some_and(|until| now < *until));
        servers
    }
}

/// For how long one who asks waits until he is told of a failure.
pub(super) fn patience(manner: Manner) -> Duration {
    Pace::of(manner).patience
}

/// Anything else is a refusal, and another server may know more.
fn is_answer(message: &Message) -> bool {
    match message.metadata.response_code {
        ResponseCode::NoError => !is_lame(message),
        ResponseCode::NXDomain => true,
        _ => false,
    }
}

/// It knows nothing of the name and asks nobody for it: such an empty answer says nothing of the
/// name, and libc passes it over too while there are other servers.
fn is_lame(message: &Message) -> bool {
    let metadata = &message.metadata;
    !metadata.authoritative && !metadata.recursion_available && message.answers.is_empty()
}

/// Never, without a time.
async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
