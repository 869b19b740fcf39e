use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use super::*;
use crate::FdbEntry;

/// Answers one request with `answer`, byte for byte, and returns the request's head.
fn serve(socket: &Path, answer: &'static str) -> JoinHandle<String> {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let length = stream.read(&mut request).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    })
}

fn answer_to(answer: &'static str) -> (Result<Vec<FdbEntry>, ClientError>, String) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("pontoon.sock");
    let server = serve(&socket, answer);
    let result = Client::new(&socket).unwrap().get("/v1/fdb");
    (result, server.join().unwrap())
}

#[test]
fn an_answer_is_decoded() {
    let (result, request) = answer_to(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n[]",
    );
    assert!(result.unwrap().is_empty());
    assert!(request.starts_with("GET /v1/fdb HTTP/1.1\r\n"), "{request}");
}

/// What a newer daemon tells besides is left aside.
// Feature: api
#[test]
fn a_newer_daemon_is_understood() {
    let (result, _) = answer_to(
        "HTTP/1.1 200 OK\r\ncontent-length: 104\r\n\r\n[{\"network\": \"n\", \"mac\": \"m\", \"port\": 1, \
         \"owner\": \"o\", \"age_seconds\": null, \"vlan\": {\"id\": 7}, \"x\": 0} ]",
    );
    assert_eq!(result.unwrap()[0].owner, "o");
}

#[test]
fn the_daemons_words_are_passed_on() {
    let (result, _) = answer_to(
        "HTTP/1.1 404 Not Found\r\ncontent-length: 31\r\n\r\n{\"error\": \"no container `web`\"}",
    );
    let error = result.unwrap_err();
    assert_eq!(error.to_string(), "no container `web`");
    assert!(error.is_not_found());
}

#[test]
fn foreign_servers_are_named() {
    for answer in [
        "HTTP/1.1 500 Oops\r\ncontent-length: 4\r\n\r\noops",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\noops",
    ] {
        let error = answer_to(answer).0.unwrap_err().to_string();
        assert!(error.contains("is not this version's daemon"), "{error}");
    }
    for answer in [
        "",
        "220 smtp ready\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[]",
    ] {
        let error = answer_to(answer).0.unwrap_err().to_string();
        assert!(error.contains("broke off"), "{error}");
    }
}

#[test]
fn no_daemon_is_told_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("pontoon.sock");
    let ask = || {
        Client::new(&socket)
            .unwrap()
            .container("web")
            .unwrap_err()
            .to_string()
    };
    let told = format!(
        "no pontoon daemon answers on {} (is it running? start it with: pontoon daemon)",
        socket.display()
    );
    assert_eq!(ask(), told);
    // A dead daemon leaves its socket file behind.
    drop(UnixListener::bind(&socket).unwrap());
    assert_eq!(ask(), told);
}

#[test]
fn names_stay_in_their_segment() {
    assert_eq!(container_path("web-1_a.b"), "/v1/containers/web-1_a.b");
    assert_eq!(
        container_path("../networks/x?y z"),
        "/v1/containers/..%2Fnetworks%2Fx%3Fy%20z"
    );
    assert_eq!(network_path("é"), "/v1/networks/%C3%A9");
}

#[test]
fn a_filter_is_what_stands_behind_the_path() {
    let mut filter = ConnectionFilter::default();
    assert_eq!(connections_path(&filter), "/v1/connections");
    filter.container = Some("web&port=1".to_owned());
    filter.address = Some("fd00::/64".to_owned());
    filter.port = Some(80);
    assert_eq!(
        connections_path(&filter),
        "/v1/connections?container=web%26port%3D1&address=fd00%3A%3A%2F64&port=80"
    );
}

/// The end of a stream is that of its answer; a line may come in pieces.
#[test]
fn events_come_a_line_each() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("pontoon.sock");
    let server = serve(
        &socket,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
         50\r\n{\"seq\": 3, \"time\": 0, \"kind\": \"container\", \"action\": \"created\", \
         \"name\": \"web\"}\n{\r\n\
         3d\r\n\"seq\": 4, \"time\": 0, \"kind\": \"container\", \"action\": \"ended\"}\n\r\n\
         0\r\n\r\n",
    );
    let client = Client::new(&socket).unwrap();
    let mut seqs = Vec::new();
    let heard = |event: crate::Event| {
        seqs.push(event.seq);
        // A request within is one more exchange; nobody answers this one.
        let absent = client.container("web").unwrap_err();
        assert_eq!(absent.code(), None);
        Ok::<(), ClientError>(())
    };
    client.events(Some(3), heard).unwrap();
    assert_eq!(seqs, [3, 4]);
    let request = server.join().unwrap();
    assert!(request.starts_with("GET /v1/events?since=3 "), "{request}");
}
