//! The API as its document tells it: every operation is asked for here, and every answer is of the
//! shape that the document gives for it, with nothing beside.

use std::collections::BTreeSet;

use jsonschema::Validator;
use pontoon_tests::namespace::Namespace;
use pontoon_tests::scene::Scene;
use serde_json::{Value, json};

/// The document, and which operations were asked for.
struct Document {
    document: Value,
    asked: BTreeSet<String>,
}

impl Document {
    fn of(scene: &Scene) -> Document {
        let (status, body) = ask(scene, "GET", "/v1/openapi.json", None);
        assert_eq!(status, 200, "{body}");
        let mut document: Value = serde_json::from_str(&body).expect("JSON");
        assert!(text(&document["openapi"]).starts_with("3."));
        close(&mut document["components"]["schemas"]);
        Document {
            document,
            asked: ["get /v1/openapi.json".to_owned()].into(),
        }
    }

    fn operations(&self) -> BTreeSet<String> {
        let paths = self.document["paths"].as_object().expect("paths");
        let operations = paths.iter().flat_map(|(path, item)| {
            let methods = item.as_object().expect("operations");
            methods.keys().map(move |method| format!("{method} {path}"))
        });
        operations.collect()
    }

    fn validator(&self, schema: &Value) -> Validator {
        let mut root = schema.clone();
        root["components"] = self.document["components"].clone();
        jsonschema::validator_for(&root).expect("the document has schemas")
    }

    /// Asks for an operation, and holds question and answer against the document. `values` stand
    /// for the names in braces, in their order.
    fn ask(
        &mut self,
        scene: &Scene,
        operation: &str,
        values: &[&str],
        body: Option<Value>,
        expected: u16,
    ) -> Value {
        let (method, template) = operation.split_once(' ').expect("METHOD PATH");
        let told = &self.document["paths"][template][method];
        assert!(told.is_object(), "{operation} is not told of");
        let mut path = template.to_owned();
        for value in values {
            let (begin, end) = (path.find('{'), path.find('}'));
            path.replace_range(begin.expect("a name")..=end.expect("its end"), value);
        }
        if let Some(body) = &body {
            let schema = &told["requestBody"]["content"]["application/json"]["schema"];
            let valid = self.validator(schema).validate(body);
            assert!(expected == 400 || valid.is_ok(), "{operation}: {valid:?}");
        }
        let sent = body.map(|body| body.to_string());
        let (status, body) = ask(scene, &method.to_uppercase(), &path, sent.as_deref());
        assert_eq!(status, expected, "{operation} {path}: {body}");
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        let content = &told["responses"][status.to_string()]["content"]["application/json"];
        let errors: Vec<String> = self
            .validator(&content["schema"])
            .iter_errors(&answer)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(
            errors.is_empty(),
            "{operation}: {errors:#?} in {answer:#}, told {content:#}"
        );
        self.asked.insert(operation.to_owned());
        answer
    }
}

/// What an object is not told to have, it has not: so that no field of an answer goes untold.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.contains_key("properties") {
                members
                    .entry("additionalProperties")
                    .or_insert(Value::Bool(false));
            }
            members.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

fn ask(scene: &Scene, method: &str, path: &str, body: Option<&str>) -> (u16, String) {
    let answer = scene.request(method, path, body);
    answer.expect("the daemon answers")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

// Feature: api
#[test]
fn answers_are_as_the_document_says() {
    let Some(scene) = Scene::new() else { return };
    let mut document = Document::of(&scene);
    let mut ask = |operation: &str, values: &[&str], body: Option<Value>, status: u16| {
        document.ask(&scene, operation, values, body, status)
    };
    let namespace = Namespace::new("api");
    let port = json!({"protocol": "tcp", "host_port": 8080, "container_port": 80, "count": 1});
    let attach = json!({
        "name": "web",
        "mode": {"network": "bridge"},
        "target": {"netns": namespace.path()},
        "publish": [port],
    });
    let create =
        json!({"name": "blue", "subnets": ["10.99.0.0/24"], "options": {"labels": {"a": "b"}}});

    ask("get /v1/info", &[], None, 200);
    ask("post /v1/networks", &[], Some(create.clone()), 200);
    ask("get /v1/networks", &[], None, 200);
    ask("get /v1/networks/{name}", &["blue"], None, 200);
    ask("post /v1/containers", &[], Some(attach.clone()), 200);
    ask(
        "post /v1/containers/{name}/endpoints",
        &["web"],
        Some(json!({"network": "blue", "port_kind": "veth"})),
        200,
    );
    ask("get /v1/containers", &[], None, 200);
    ask("get /v1/containers/{name}", &["web"], None, 200);
    let more = json!([{"protocol": "udp", "host_port": 9000, "container_port": 90, "count": 10}]);
    ask(
        "post /v1/containers/{name}/ports",
        &["web"],
        Some(more.clone()),
        200,
    );
    ask("get /v1/containers/{name}/ports", &["web"], None, 200);
    ask("get /v1/fdb", &[], None, 200);
    ask("get /v1/nat", &[], None, 200);
    ask("get /v1/connections", &[], None, 200);
    ask("get /v1/counters", &[], None, 200);
    let limits = json!({"limits": {"in": {"bits_per_second": 1_000_000}}});
    let limited = ask(
        "post /v1/containers/{name}/limits",
        &["web"],
        Some(limits),
        200,
    );
    assert_eq!(
        limited["endpoints"][0]["limits"]["in"]["bits_per_second"],
        1_000_000
    );
    let faults = json!({"faults": {"out": {"latency_us": 10, "jitter_us": 0, "loss_per_million": 0, "duplicate_per_million": 0}}});
    ask(
        "post /v1/containers/{name}/faults",
        &["web"],
        Some(faults.clone()),
        200,
    );
    ask("delete /v1/containers/{name}/faults", &["web"], None, 200);
    ask(
        "post /v1/containers/{name}/faults",
        &["web"],
        Some(faults),
        200,
    );
    ask(
        "post /v1/containers/{name}/partition",
        &["web"],
        Some(json!({"parted": true})),
        200,
    );
    ask("delete /v1/faults", &[], None, 200);
    ask(
        "delete /v1/containers/{name}/ports",
        &["web"],
        Some(more),
        200,
    );
    ask(
        "delete /v1/containers/{name}/endpoints/{network}",
        &["web", "blue"],
        None,
        200,
    );

    // The end of a command, which is its supervisor's to tell.
    scene.run_detached("sleeper", &[], &["sleep", "1000"]);
    let stop = json!({"signal": "NONE"});
    ask(
        "post /v1/containers/{name}/kill",
        &["sleeper"],
        Some(stop),
        400,
    );
    let kill = json!({"signal": "KILL"});
    ask(
        "post /v1/containers/{name}/kill",
        &["sleeper"],
        Some(kill),
        200,
    );
    ask("get /v1/containers/{name}/wait", &["sleeper"], None, 200);
    let ended = json!({"exit_code": 7});
    ask(
        "post /v1/containers/{name}/exit",
        &["sleeper"],
        Some(ended),
        200,
    );

    // What goes wrong.
    ask("post /v1/networks", &[], Some(create), 409);
    ask("post /v1/containers", &[], Some(attach), 409);
    ask("get /v1/networks/{name}", &["nowhere"], None, 404);
    ask("get /v1/containers/{name}", &["nobody"], None, 404);
    ask(
        "post /v1/networks",
        &[],
        Some(json!({"name": "x", "colour": "blue"})),
        400,
    );
    ask("post /v1/networks", &[], Some(json!({"name": "a/b"})), 400);
    let huge = json!({"name": "x".repeat(2 << 20)});
    ask("post /v1/networks", &[], Some(huge), 413);

    ask("delete /v1/containers/{name}", &["web"], None, 200);
    ask("delete /v1/networks/{name}", &["blue"], None, 200);
    ask("delete /v1/networks", &[], None, 200);
    ask("delete /v1/connections", &[], None, 200);

    // A stream of lines, not one answer: `pontoon events` is told of elsewhere.
    let told = &document.document["paths"]["/v1/events"]["get"]["responses"]["200"]["content"];
    let schema = told["application/x-ndjson"]["schema"].clone();
    let events = scene
        .host_command("timeout")
        .args(["1"])
        .arg(pontoon_tests::pontoon())
        .args(["events", "--json", "--since", "0"])
        .output()
        .expect("it starts");
    let validator = document.validator(&schema);
    let lines = String::from_utf8(events.stdout).expect("UTF-8");
    assert!(lines.lines().count() > 8, "{lines}");
    for line in lines.lines() {
        let event: Value = serde_json::from_str(line).expect("JSON");
        let valid = validator.validate(&event);
        assert!(valid.is_ok(), "{line}: {valid:?}");
    }
    document.asked.insert("get /v1/events".to_owned());
    // Nor is this JSON.
    let (status, metrics) = crate::ask(&scene, "GET", "/v1/metrics", None);
    assert!(status == 200 && metrics.starts_with("# "), "{metrics}");
    document.asked.insert("get /v1/metrics".to_owned());

    let operations = document.operations();
    let untested: Vec<_> = operations.difference(&document.asked).collect();
    assert!(untested.is_empty(), "nothing here asks for {untested:?}");
}

// Feature: api
#[test]
fn another_version_is_told_what_this_one_knows() {
    let Some(scene) = Scene::new() else { return };
    let error = |method: &str, path: &str, body: Option<&str>| {
        let (status, body) = ask(&scene, method, path, body);
        assert!((400..500).contains(&status), "{status} {body}");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        text(&body["error"]).to_owned()
    };
    for path in ["/v2/containers", "/v1.41/containers/json", "/v0/info"] {
        let error = error("GET", path, None);
        assert!(error.contains("speaks version 1"), "{error}");
    }
    for path in [
        "/",
        "/containers/json",
        "/v1/future",
        "/v1/containers/web/future",
    ] {
        let error = error("GET", path, None);
        assert!(error.contains("/v1/openapi.json"), "{error}");
    }
    let wrong = error("PUT", "/v1/networks", None);
    assert!(
        wrong.contains("PUT") && wrong.contains("/v1/openapi.json"),
        "{wrong}"
    );

    // A newer client that asks for nothing new.
    let (status, _) = ask(&scene, "GET", "/v1/containers?page=1", None);
    assert_eq!(status, 200, "what is behind a `?` may be new");
    let (status, body) = ask(&scene, "POST", "/v1/networks", Some("{\"name\": \"blue\"}"));
    assert_eq!(status, 200, "what is left out has its default: {body}");
    // One that relies on what this daemon has not, even behind a `?`, where it says what is to end.
    for query in [
        "colour=blue",
        "protocol=quic",
        "address=1.2.3",
        "container=nobody",
    ] {
        let error = error("DELETE", &format!("/v1/connections?{query}"), None);
        let value = query.split('=').next_back().unwrap();
        assert!(error.contains(value) || error.contains("colour"), "{error}");
    }
    let new = "{\"name\": \"red\", \"encrypted\": true}";
    let unknown = error("POST", "/v1/networks", Some(new));
    assert!(
        unknown.contains("encrypted") && unknown.contains("/v1/openapi.json"),
        "{unknown}"
    );
}
