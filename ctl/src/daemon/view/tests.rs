//! A view that follows changes is the one that would be made from nothing.

use super::*;
use crate::api::{Fault, Faults, Mode};
use crate::daemon::sample::{container, names, network};

/// A daemon's lists, and the view that has followed them.
struct Scene {
    networks: Vec<Network>,
    containers: Vec<Container>,
    names: NameService,
    faults: FaultBook,
    view: View,
}

impl Scene {
    /// Brings the view up to date, and checks it against one that is made from nothing.
    fn follow(&mut self) {
        let sight = Sight {
            networks: &self.networks,
            containers: &self.containers,
            uplinks: &[],
            host: &HostState::default(),
            names: &self.names,
            faults: &self.faults,
            host_silence: crate::api::HostSilenceKind::Sockets,
        };
        self.view = View::new(&sight, &self.view);
        let anew = View::new(&sight, &View::default());
        let told = |view: &View| {
            let networks: Vec<_> = view.networks().cloned().collect();
            let containers: Vec<_> = view.containers().cloned().collect();
            let owners: Vec<String> = (0..9).map(|port| view.owner(port)).collect();
            serde_json::to_value((networks, containers, owners)).unwrap()
        };
        assert_eq!(told(&self.view), told(&anew));
    }

    fn told(&self, name: &str) -> Arc<api::Container> {
        let mut containers = self.view.containers();
        Arc::clone(containers.find(|it| it.name == name).unwrap())
    }
}

#[tokio::test]
async fn a_view_shares_what_has_not_changed_and_nothing_else() {
    let mut scene = Scene {
        networks: vec![network("n", 1)],
        containers: vec![
            container("web", Some(4), "n"),
            container("db", Some(5), "n"),
        ],
        names: names(),
        faults: FaultBook::default(),
        view: View::default(),
    };
    scene.follow();
    let web = scene.told("web");

    // Another one's record and port, a container more, a network more and less.
    Arc::make_mut(&mut scene.containers[1].record).endpoints[0].aliases = vec!["sql".into()];
    scene.follow();
    assert_eq!(scene.told("db").endpoints[0].aliases, ["sql"]);
    scene.containers[1].plugs[0].ifindex = 9;
    scene.follow();
    assert_eq!(scene.told("db").endpoints[0].ifindex, 9);
    scene.containers.push(container("late", Some(6), "n"));
    scene.networks.push(network("other", 2));
    scene.follow();
    scene.networks.pop();
    scene.containers.remove(1);
    scene.follow();
    assert!(Arc::ptr_eq(&web, &scene.told("web")));

    // What is not in its record.
    let mut joined = container("joined", None, "n");
    let record = Arc::make_mut(&mut joined.record);
    record.mode = Mode::Container("web".to_owned());
    record.endpoints.clear();
    scene.containers.push(joined);
    scene.follow();
    assert_eq!(scene.told("web").joined, ["joined"]);
    scene.containers.pop();
    scene.follow();
    assert!(scene.told("web").joined.is_empty());

    let inward = Fault {
        latency_us: 7,
        ..Fault::default()
    };
    let faults = Faults {
        inward,
        ..Faults::default()
    };
    scene.faults.put("web", "n", faults.clone());
    scene.follow();
    assert_eq!(scene.told("web").endpoints[0].faults, faults);
    scene.faults = FaultBook::default();
    scene.follow();
    assert!(scene.told("web").endpoints[0].faults.is_none());
}
