//! Two Docker networks of one name, with a real engine: whatever their order, the stranger's stays and
//! ours goes. It needs root and Debian's `docker.io`.

use serde_json::json;

use crate::support::host::{Host, host};
use crate::support::memory::{add, network};
use node::local::client::post;

impl Host {
    /// Each network of this name as `DRIVER`.
    fn drivers(&self, name: &str) -> Vec<String> {
        let format = ["--format", "{{.Name}} {{.Driver}}"];
        let listed = self.engine.docker(&["network", "ls", format[0], format[1]]);
        let lines = listed.lines().filter_map(|line| line.split_once(' '));
        let same_name = lines.filter(|(found, _)| *found == name);
        same_name.map(|(_, driver)| driver.to_owned()).collect()
    }

    fn add_network(&self, name: &str, subnet: &str) {
        let projection = &self.plugin.projection;
        projection.send_modify(|it| add(it, network("default", name, subnet)));
    }

    /// Makes a bridge network. Without `CheckDuplicate` the engine makes it beside one of that name.
    fn make_stranger(&self, name: &str) {
        let stranger = json!({"Name": name, "Driver": "bridge"});
        let made = post(
            &self.engine.socket(),
            "/networks/create",
            &stranger.to_string(),
        )
        .expect("an answer");
        assert!(made.is_success(), "{made:?}");
    }

    fn wait_for_stranger_alone(&self, name: &str) {
        let text = format!("network `{name}` of driver `bridge`");
        self.engine
            .until(&format!("only the stranger's {name} is left"), || {
                self.drivers(name) == ["bridge"] && self.is_raised("docker-network-taken", &[&text])
            });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn network_of_ours_goes_when_a_stranger_takes_its_name() {
    let host = host(&[]);
    host.run("held", &["--net=contiv-net"]);
    host.make_stranger("contiv-net");
    host.engine.until("the alarm says that ours is in use", || {
        host.is_raised("docker-network-held", &["`contiv-net`"])
    });
    host.engine.docker(&["rm", "-f", "held"]);
    host.wait_for_stranger_alone("contiv-net");
    host.engine.docker(&["network", "rm", "contiv-net"]);
    host.engine.until("ours takes its place", || {
        host.drivers("contiv-net") == ["contiv"] && host.plugin.handle().alarms.borrow().is_empty()
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_of_one_name_made_at_one_time_end_as_the_strangers() {
    let host = host(&[]);
    for round in 0..8 {
        let (name, subnet) = (format!("race-{round}"), format!("10.{round}.0.0/24"));
        std::thread::scope(|scope| {
            scope.spawn(|| host.make_stranger(&name));
            host.add_network(&name, &subnet);
        });
        host.wait_for_stranger_alone(&name);
    }
}
