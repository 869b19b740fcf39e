//! One question to one upstream server.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::cache::Question;
use super::message::{self, DATAGRAM_MAX};

/// How long a server has to answer a query with EDNS before it is asked without: some, and some
/// firewalls before them, throw such queries away.
const EDNS_PATIENCE: Duration = Duration::from_millis(900);

/// How long a server has to tell over TCP what did not fit a datagram. Some let none of it through.
const WHOLE_PATIENCE: Duration = Duration::from_millis(2500);

/// Asks until an answer comes; the caller sets the time limit. Over UDP, or over TCP if the
/// question says so; without EDNS if the server does not know it (RFC 6891 clause 7) or is silent.
/// Tells too whether the server knows EDNS. What does not fit a datagram is asked for again over
/// TCP; where that fails the answer is what did fit, marked as truncated.
///
/// # Errors
/// The server can't be reached: at once where its host says so. Or it breaks off over TCP.
pub(super) async fn ask(
    server: SocketAddr,
    question: &Question,
    edns: bool,
) -> io::Result<(Message, bool)> {
    let (answer, knows_edns) = ask_first(server, question, edns).await?;
    if question.manner.by_stream || !answer.metadata.truncation {
        return Ok((answer, knows_edns));
    }
    let query = query(question, knows_edns);
    let whole = timeout(WHOLE_PATIENCE, by_stream(server, &query)).await;
    let whole = whole.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let whole = whole.unwrap_or_else(|error| {
        tracing::debug!("{server} does not tell over TCP what is too long for UDP: {error}");
        answer
    });
    Ok((whole, knows_edns))
}

async fn ask_first(
    server: SocketAddr,
    question: &Question,
    edns: bool,
) -> io::Result<(Message, bool)> {
    let plain = query(question, false);
    if !edns {
        return Ok((exchange(server, question, &plain).await?, false));
    }
    let query = query(question, true);
    let mut asked = pin!(exchange(server, question, &query));
    let answer = match timeout(EDNS_PATIENCE, &mut asked).await {
        Ok(answer) => answer?,
        Err(_) => tokio::select! {
            answer = asked => answer?,
            answer = exchange(server, question, &plain) => return Ok((answer?, false)),
        },
    };
    // Servers of before EDNS say SERVFAIL too; one that knows it answers with it in any case.
    let unknown = match answer.metadata.response_code {
        ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS => true,
        ResponseCode::ServFail | ResponseCode::Refused => answer.edns.is_none(),
        _ => false,
    };
    if !unknown {
        return Ok((answer, true));
    }
    let answer = exchange(server, question, &plain).await?;
    let knows = answer.metadata.response_code != ResponseCode::NoError;
    Ok((answer, knows))
}

async fn exchange(server: SocketAddr, question: &Question, query: &Message) -> io::Result<Message> {
    if question.manner.by_stream {
        by_stream(server, query).await
    } else {
        by_datagram(server, query).await
    }
}

fn query(question: &Question, with_edns: bool) -> Message {
    // Its id is drawn at random.
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.metadata.checking_disabled = question.checking_disabled;
    query.add_query(Query::query(question.name.clone(), question.record_type));
    if !with_edns {
        return query;
    }
    let mut edns = Edns::new();
    edns.set_max_payload(DATAGRAM_MAX);
    edns.set_dnssec_ok(question.dnssec_ok);
    query.set_edns(edns);
    // Whether the records are verified is for every asker to hear that wants to (RFC 6840 clause
    // 5.7). Servers of before EDNS may know no such bit.
    query.metadata.authentic_data = true;
    query
}

/// RFC 5452 clause 9: an answer counts only from the server's address to a port drawn at random
/// for this one query, both of which the kernel sees to for a connected socket; with the id; to
/// the question. Anything else is thrown away and waited past.
async fn by_datagram(server: SocketAddr, query: &Message) -> io::Result<Message> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&bytes(query)?).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = read(&buffer[..length], query) {
            return answer;
        }
    }
}

async fn by_stream(server: SocketAddr, query: &Message) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let query_bytes = bytes(query)?;
    let length = u16::try_from(query_bytes.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes(), &query_bytes[..]].concat();
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; length.into()];
    stream.read_exact(&mut buffer).await?;
    read(&buffer, query).unwrap_or_else(|| {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{server} answered something else over TCP"),
        ))
    })
}

fn bytes(query: &Message) -> io::Result<Vec<u8>> {
    query.to_vec().map_err(io::Error::other)
}

/// The answer to `query`, if it is one. A server that can't make anything of the query may answer
/// with a header alone, which tells of a failure. Of an answer with unreadable records after those
/// that answer the question these count.
///
/// # Errors
/// It is the answer, and can't be read: there is nothing to wait for.
fn read(bytes: &[u8], query: &Message) -> Option<io::Result<Message>> {
    // Before anything is made for as many questions as a header may claim.
    let is_bare = match bytes.get(4..6)? {
        [0, 0] => true,
        [0, 1] => false,
        _ => return None,
    };
    let is_it = |answer: &Message, fails: bool| {
        answer.metadata.id == query.metadata.id
            && answer.metadata.message_type == MessageType::Response
            && if is_bare {
                fails
            } else {
                answer.queries == query.queries
            }
    };
    let whole = Message::from_vec(&message::without_options(bytes));
    let readable = whole.or_else(|error| {
        let answers = message::answers_alone(bytes).ok_or(error)?;
        Message::from_vec(&answers)
    });
    match readable {
        Ok(answer) => {
            let code = answer.metadata.response_code;
            let fails = !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
            is_it(&answer, fails).then_some(Ok(answer))
        }
        Err(error) => {
            let question = message::question_alone(bytes)?;
            let head = Message::from_vec(&question).ok()?;
            is_it(&head, false).then(|| Err(io::Error::other(error)))
        }
    }
}
