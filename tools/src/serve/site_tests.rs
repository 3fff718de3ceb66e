use std::time::Duration;

use clap::Parser;
use gangway_bridge::Target;
use gangway_fabric::host::client::{AdminQueue, HostIdentity, Options};
use gangway_spec::fabrics::HostId;

use super::*;
use crate::serve::tests::start as serve;

const DB: &str = "nqn.2014-08.org.example:db";
const FIRST: &str = "nqn.2026-11.io.gangway:FIRST";

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    terms: Terms,
}

fn wanted(devices: &[&str], terms: &[&str]) -> Wanted {
    let terms = Arguments::try_parse_from(std::iter::once(&"add").chain(terms)).unwrap().terms;
    Wanted { devices: devices.iter().map(|device| device.parse().unwrap()).collect(), terms }
}

fn doing() -> Doing {
    Doing::new().0
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

/// What there is: exports with the number of their drives, and drives.
async fn there_is(site: &Site) -> (Vec<(String, usize)>, usize) {
    let exports = site.target.exports().into_iter().map(|one| (one.nqn.to_string(), one.drives.len()));
    let drives = site.target.status().await.drives.len();
    assert_eq!(site.roster.lock().await.members.len(), drives);
    (exports.collect(), drives)
}

/// A host that is connected to an export, and reads from it.
async fn host(target: &Target, nqn: &str) -> AdminQueue {
    let (address, nqn) = (target.addresses()[0], nqn.parse().unwrap());
    let identity = HostIdentity { nqn: "nqn.2014-08.org.example:host".parse().unwrap(), id: HostId([7; 16]) };
    let connect = move || {
        let mut admin = AdminQueue::connect(address, &nqn, &identity, &Options::default()).unwrap();
        admin.enable().unwrap();
        admin.connect_io(1).unwrap().read_blocks(1, 0, 1, 4096).unwrap();
        admin
    };
    tokio::task::spawn_blocking(connect).await.unwrap()
}

/// Runs a test with a server of one drive, whose serial number is FIRST.
fn with_server<W: Future<Output = ()>>(test: impl FnOnce(Arc<Site>, Arc<Target>) -> W) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (target, site) = serve(&["--device", "emulated:size=8M,serial=FIRST,namespaces=2"]).await;
        let target = Arc::new(target);
        test(Arc::clone(&site), Arc::clone(&target)).await;
        site.end().await;
        assert_eq!(Arc::into_inner(target).unwrap().shutdown().await, [""; 0]);
    });
}

#[test]
fn a_drive_comes_under_its_own_name_and_goes_with_its_last_export() {
    with_server(|site, target| async move {
        let before = there_is(&site).await;
        let added = site.add(wanted(&["emulated:size=8M,serial=X1"], &[]), doing()).await.unwrap();
        let nqn = "nqn.2026-11.io.gangway:X1";
        assert_eq!(added.exports[0].nqn, nqn);
        assert_eq!(added.addresses, target.addresses());
        let again = ["--export", "nqn=nqn.2014-08.org.example:db,drive=X1,read-only"];
        let added = site.add(wanted(&[], &again), doing()).await.unwrap();
        assert!(added.drives.is_empty() && added.exports[0].description.ends_with("read-only"));
        let mut connected = host(&target, nqn).await;
        for name in [nqn, "X1"] {
            let refused = site.remove(names(&[name]), false, doing()).await.unwrap_err();
            assert!(refused.is::<InUse>() && refused.to_string().contains(":host"), "{refused:#}");
        }
        assert_eq!(there_is(&site).await.1, 2);
        let removed = site.remove(names(&[nqn]), true, doing()).await.unwrap();
        assert_eq!((removed.exports, removed.drives.len()), (names(&[nqn]), 0), "another export shows it");
        let ended = tokio::task::spawn_blocking(move || connected.keep_alive()).await.unwrap();
        assert!(ended.is_err(), "its host was disconnected");
        let removed = site.remove(names(&["X1"]), false, doing()).await.unwrap();
        assert_eq!(removed.exports, names(&[DB]));
        assert!(removed.drives.len() == 1 && removed.drives[0].in_order);
        assert_eq!(there_is(&site).await, before);
    });
}

#[test]
fn the_last_drive_of_a_server_can_go_and_another_come() {
    with_server(|site, target| async move {
        site.remove(names(&[FIRST]), false, doing()).await.unwrap();
        assert_eq!(there_is(&site).await, (Vec::new(), 0));
        let number = site.numbers.take();
        assert_eq!(number.index(), 0, "its number is free");
        drop(number);
        site.add(wanted(&["emulated:size=8M,serial=FIRST"], &[]), doing()).await.unwrap();
        drop(host(&target, FIRST).await);
    });
}

#[test]
fn what_cannot_be_added_leaves_everything_as_it_was() {
    with_server(|site, _| async move {
        let before = there_is(&site).await;
        let export = |rest: &str| format!("nqn={DB},{rest}");
        let drive = "emulated:size=8M,serial=X1";
        // The second export fails when the first one is there already.
        let second = format!("nqn={DB}-2,ns=X1/9");
        for (devices, terms, reason) in [
            (&[][..], vec![], "nothing to add"),
            (&["emulated:null"], vec![], "null"),
            (&[drive, "emulated:null"], vec![], "null"),
            (&[drive], vec!["--nqn", FIRST], "already"),
            (&[drive], vec!["--nqn", "nqn.2014-08.org.nvmexpress.discovery"], "discovery"),
            (&[], vec!["--export", "nqn=nqn.2014-08.org.example:db,drive=NONE"], "no drive \"NONE\""),
            (&[], vec!["--export", "nqn=nqn.2014-08.org.example:db,drive=1"], "no drive \"1\""),
            (
                &[drive],
                vec!["--export", "nqn=nqn.2014-08.org.example:db,drive=FIRST"],
                "no --export names it",
            ),
            (&[drive], vec!["--export", &export("drive=1"), "--export", &second], "no namespace 9"),
            (&[drive], vec!["--read-only", "--allow", "manage"], "contradicts"),
            (&["emulated:file=/nonexistent/disk.img"], vec![], "/nonexistent/disk.img"),
            (&["emulated:serial=X1,ready-timeout=500ms,fault=not-ready"], vec![], "ready"),
            (&["emulated:size=8M,serial=FIRST"], vec!["--nqn", DB], "two controllers of one drive"),
            (&["vfio-user:/nonexistent/socket"], vec![], "/nonexistent/socket"),
        ] {
            let refused = site.add(wanted(devices, &terms), doing()).await.unwrap_err();
            let text = crate::output::explain(&refused);
            assert!(text.contains(reason), "{devices:?} {terms:?}: {text}");
            assert_eq!(there_is(&site).await, before, "{devices:?} {terms:?}");
        }
        for (name, reason) in
            [("nqn.2014-08.org.example:none", "neither"), ("0000:01:00.0", "neither"), ("", "neither")]
        {
            let refused = site.remove(names(&[FIRST, name]), false, doing()).await.unwrap_err();
            assert!(refused.to_string().contains(reason), "{refused:#}");
            assert_eq!(there_is(&site).await, before);
        }
    });
}

#[test]
fn namespaces_of_other_drives_join_an_export_and_leave_it() {
    with_server(|site, target| async move {
        let (db, second) = (DB.parse::<Nqn>().unwrap(), "emulated:size=8M,serial=X2");
        let list = format!("nqn={DB},ns=1=FIRST/1");
        site.add(wanted(&[], &["--export", &list]), doing()).await.unwrap();
        let before = there_is(&site).await;
        let ns = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        let whole = FIRST.parse::<Nqn>().unwrap();
        for (export, namespaces, devices, reason) in [
            (&db, &["1=FIRST/2"][..], &[][..], "given to two"),
            (&db, &["2=FIRST/1"], &[], "shown twice"),
            (&db, &["2=FIRST/7"], &[], "no namespace 7"),
            (&db, &["2=FIRST/2"], &[second], "no --ns names it"),
            (&db, &["2=1/3"], &[second], "no namespace 3"),
            (&db, &["2=1/1"], &["emulated:size=8M,serial=X2,mdts=5"], "promised"),
            (&whole, &["9=FIRST/2"], &[], "all of a drive"),
            (&"nqn.2014-08.org.example:none".parse().unwrap(), &["9=FIRST/2"], &[], "no export"),
        ] {
            let refused = site.add_to(export.clone(), ns(namespaces), wanted(devices, &[]), doing()).await;
            let text = crate::output::explain(&refused.unwrap_err());
            assert!(text.contains(reason), "{export} {namespaces:?}: {text}");
            assert_eq!(there_is(&site).await, before, "{export} {namespaces:?}");
        }
        let added =
            site.add_to(db.clone(), ns(&["2=FIRST/2", "7=1/1"]), wanted(&[second], &[]), doing()).await;
        assert_eq!(added.unwrap().namespaces, [2, 7]);
        assert_eq!(there_is(&site).await.1, 2);
        let refused = site.remove(names(&["X2"]), false, doing()).await.unwrap_err();
        assert!(refused.to_string().contains("other drives"), "{refused:#}");
        let connected = host(&target, DB).await;
        assert!(site.remove_from(db.clone(), vec![7], false, doing()).await.unwrap_err().is::<InUse>());
        let removed = site.remove_from(db.clone(), vec![7], true, doing()).await.unwrap();
        assert!(removed.drives.len() == 1 && removed.drives[0].in_order, "nothing else shows it");
        assert_eq!(there_is(&site).await, before);
        for (nsids, reason) in [(vec![7], "no namespace 7"), (vec![1, 2], "has to stay")] {
            let refused = site.remove_from(db.clone(), nsids, true, doing()).await.unwrap_err();
            assert!(refused.to_string().contains(reason), "{refused:#}");
        }
        site.remove_from(db, vec![1], true, doing()).await.unwrap();
        drop(connected);
    });
}

#[test]
fn an_addition_that_nobody_waits_for_any_more_is_taken_back() {
    with_server(|site, _| async move {
        let folder = tempfile::tempdir().unwrap();
        let before = there_is(&site).await;
        let file = format!("emulated:size=8M,serial=X1,file={}/disk.img", folder.path().display());
        let slow = format!("{file},fault=not-ready=3s");
        let opened = async {
            while !folder.path().join("disk.img").exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            added = site.add(wanted(&[&slow], &[]), doing()) => panic!("{added:?}"),
            () = opened => {}
        }
        // As long as it starts, it has its file to itself. Then it is shut down.
        let refused = site.add(wanted(&[&file], &[]), doing()).await.unwrap_err();
        assert!(crate::output::explain(&refused).contains("disk.img"), "{refused:#}");
        assert_eq!(there_is(&site).await, before);
        let added = loop {
            if let Ok(added) = site.add(wanted(&[&file], &[]), doing()).await {
                break added;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(added.drives.len(), 1);
    });
}

#[test]
fn what_was_started_for_an_addition_that_fails_is_shut_down_when_it_is_refused() {
    with_server(|site, _| async move {
        let folder = tempfile::tempdir().unwrap();
        let file = format!("emulated:size=8M,serial=X1,file={}/disk.img", folder.path().display());
        for round in 0..3 {
            let both = wanted(&[&file, "emulated:file=/nonexistent/disk.img"], &[]);
            assert!(site.add(both, doing()).await.is_err());
            let nowhere = format!("nqn={DB},ns=1/9");
            assert!(site.add(wanted(&[&file], &["--export", &nowhere]), doing()).await.is_err());
            // Its file is free.
            site.add(wanted(&[&file], &[]), doing()).await.unwrap();
            let removed = site.remove(names(&["X1"]), false, doing()).await.unwrap();
            assert!(removed.drives[0].in_order, "{round}");
        }
    });
}

#[test]
fn a_drive_that_moves_no_data_never_comes_to_a_server_that_had_another() {
    with_server(|site, _| async move {
        site.remove(names(&[FIRST]), false, doing()).await.unwrap();
        for terms in [&[][..], &["--nqn", DB]] {
            let refused = site.add(wanted(&["emulated:null"], terms), doing()).await.unwrap_err();
            assert!(refused.to_string().contains("null"), "{refused:#}");
        }
    });
}

#[test]
fn what_the_command_line_cannot_say_is_refused_of_programs_too() {
    with_server(|site, _| async move {
        let refused = |added: anyhow::Result<Added>| added.unwrap_err().to_string();
        let export = format!("nqn={DB},drive=FIRST");
        let mut both = wanted(&[], &["--export", &export]);
        both.terms.nqn.push(DB.parse().unwrap());
        let text =
            refused(site.add(Wanted { devices: vec!["emulated".parse().unwrap()], ..both }, doing()).await);
        assert!(text.contains("--nqn"), "{text}");
        let mut both = wanted(&[], &["--export", &export, "--allow-any-host"]);
        both.terms.allow_host.push(DB.parse().unwrap());
        let text = refused(site.add(both, doing()).await);
        assert!(text.contains("--allow-any-host"), "{text}");
        let nqn = FIRST.parse::<Nqn>().unwrap();
        let text = refused(site.add_to(nqn.clone(), Vec::new(), wanted(&[], &[]), doing()).await);
        assert!(text.contains("no namespace"), "{text}");
        assert!(site.remove(Vec::new(), true, doing()).await.is_err());
        assert!(site.remove_from(nqn, Vec::new(), true, doing()).await.is_err());
    });
}

#[test]
fn two_additions_at_a_time_are_both_made_and_one_name_is_given_once() {
    with_server(|site, _| async move {
        let add = |device: &str, nqn: &str| {
            let (site, wanted) = (Arc::clone(&site), wanted(&[device], &["--nqn", nqn]));
            async move { site.add(wanted, doing()).await }
        };
        let slow = "emulated:size=8M,fault=not-ready=100ms";
        let (one, two) = tokio::join!(add(slow, DB), add(slow, "nqn.2014-08.org.example:other"));
        assert!(one.is_ok() && two.is_ok());
        let (one, two) =
            tokio::join!(add(slow, "nqn.2014-08.org.example:x"), add(slow, "nqn.2014-08.org.example:x"));
        assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
        assert_eq!(there_is(&site).await.1, 4);
        site.end().await;
        assert!(
            add("emulated", "nqn.2014-08.org.example:late").await.unwrap_err().to_string().contains("ending")
        );
    });
}
