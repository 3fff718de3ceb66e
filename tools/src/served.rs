//! A target in this process, for tests: an emulated drive, exported to whoever reaches a free port of the loopback address.

use std::net::SocketAddr;

use gangway_bridge::{
    Access, Drive, ExportConfig, HostPolicies, Identifiers, Limits, ReactorConfig, Selection, Target,
    TargetConfig,
};
use gangway_driver::controller::Options;
use gangway_driver::dma::DmaDomain;
use gangway_driver::emulated::{EmulatedConfig, EmulatedFunction};
use gangway_fabric::congestion::CongestionControl;

/// Starts it, with one reactor.
pub(crate) async fn start(drive: EmulatedConfig, nqn: &str) -> Target {
    let domain = DmaDomain::new();
    let mut function = Some(EmulatedFunction::new(drive, &domain).unwrap());
    let open = Box::new(move || function.take().ok_or("it is not opened again".into()));
    let drive = Drive::start(0, open, Options::default()).unwrap();
    let config = TargetConfig {
        reactors: crate::cpus::allowed().unwrap().0.into_iter().take(1).collect(),
        reactor: ReactorConfig::default(),
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        max_connections: 64,
        congestion_control: CongestionControl::default(),
        state: None,
    };
    let export = ExportConfig {
        nqn: nqn.parse().unwrap(),
        namespaces: Selection::Drive(0),
        access: Access::AnyHost,
        read_only: false,
        identifiers: Identifiers::Own,
        policies: HostPolicies::default(),
        limits: Limits::default(),
        max_io_queues: 4,
    };
    Target::start(config, &domain, vec![drive], vec![export]).await.unwrap()
}
