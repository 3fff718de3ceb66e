use super::*;

fn micros(count: u64) -> Duration {
    Duration::from_micros(count)
}

/// A silence of hosts that begins at `now` and lasts so long. What the reactor does in the midst of it.
fn silence(pace: &mut Pace, now: &mut Instant, silence: Duration) -> Wait {
    pace.note(false, *now);
    pace.wait(Outstanding::Nothing, false, *now);
    let wait = pace.wait(Outstanding::Nothing, false, *now + silence / 2);
    *now += silence;
    pace.note(true, *now);
    wait
}

/// A pace after silences of this length, and when the last of them began.
fn after_silences(poll: Poll, length: Duration) -> (Pace, Instant) {
    let mut now = Instant::now();
    let mut pace = Pace::new(poll);
    for _ in 0..4 * TRY {
        silence(&mut pace, &mut now, length);
    }
    pace.note(false, now);
    (pace, now)
}

#[test]
fn it_sleeps_when_idle_however_busy_it_was() {
    let (mut pace, now) = after_silences(Poll::Adaptive, micros(5));
    assert_eq!(pace.wait(Outstanding::Nothing, false, now + micros(9)), Wait::Look);
    assert_eq!(pace.wait(Outstanding::Nothing, false, now + micros(11)), Wait::GiveWay);
    assert_eq!(pace.wait(Outstanding::Nothing, false, now + micros(61)), Wait::Forever);
}

/// Of so many silences, after many others that took `asleep` to one who sleeps and `awake` to one who spins, how many
/// are spun through.
fn spins(count: u32, asleep: u64, awake: u64) -> usize {
    let (mut pace, mut now) = after_silences(Poll::Adaptive, micros(5000));
    let mut spins = || {
        pace.note(false, now);
        let spins = pace.wait(Outstanding::Nothing, false, now) != Wait::Forever;
        now += micros(if spins { awake } else { asleep });
        pace.note(true, now);
        spins
    };
    (0..24 * TRY).for_each(|_| _ = spins());
    (0..count).filter(|_| spins()).count()
}

#[test]
fn it_spins_where_that_makes_silences_shorter_and_sleeps_now_and_then_to_see_whether_it_still_does() {
    for (asleep, awake) in [(25, 12), (50, 30), (390, 230), (990, 740)] {
        let spins = spins(4 * TRY, asleep, awake);
        assert_eq!(spins, ((4 * PROBE - 1) * PHASE) as usize, "{asleep}, {awake}");
    }
}

#[test]
fn it_learns_anew_what_spinning_gains_however_it_was() {
    let (mut pace, mut now) = after_silences(Poll::Adaptive, micros(5000));
    (pace.sleep, pace.pause, pace.gains) = (micros(1200), micros(200), true);
    let mut spins = 0;
    for number in 0..24 * TRY {
        pace.note(false, now);
        let wait = pace.wait(Outstanding::Nothing, false, now);
        spins += u32::from(number >= 20 * TRY && wait != Wait::Forever);
        now += micros(100);
        pace.note(true, now);
    }
    assert_eq!(spins, 4 * PHASE);
}

#[test]
fn short_silences_are_always_spun_through() {
    assert_eq!(spins(10 * TRY, 20, 8), 10 * TRY as usize);
}

#[test]
fn it_tries_one_time_of_16_where_it_gains_little_and_never_where_silences_are_long() {
    assert_eq!(spins(12 * TRY, 100, 90), 12 * PHASE as usize);
    assert_eq!(spins(12 * TRY, 999, 999), 12 * PHASE as usize);
    assert_eq!(spins(10 * TRY, 1100, 10), 0);
}

#[test]
fn it_seldom_spins_where_silences_are_at_the_limit_or_of_any_length() {
    let scattered = |around: u32, number: u32| {
        // Exponential, as of hosts that know nothing of each other.
        let mut mixed = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let part = ((mixed ^ mixed >> 31) >> 11) as f64 / (1_u64 << 53) as f64;
        Duration::from_secs_f64(f64::from(around) * 1e-6 * -(1.0 - part).ln())
    };
    let lengths: [&dyn Fn(u32) -> Duration; 4] = [
        &|number| micros(if number.is_multiple_of(2) { 960 } else { 1040 }),
        &|number| scattered(50, number),
        &|number| scattered(200, number),
        &|number| scattered(1400, number),
    ];
    for (case, length) in lengths.into_iter().enumerate() {
        let (mut pace, mut now) = after_silences(Poll::Adaptive, micros(5000));
        let mut spins = 0;
        // What it knew before is forgotten by then.
        let learns = 12 * TRY;
        for number in 0..learns + 40 * TRY {
            pace.note(false, now);
            let wait = pace.wait(Outstanding::Nothing, false, now);
            spins += u32::from(number >= learns && wait != Wait::Forever);
            now += length(number).max(micros(1));
            pace.note(true, now);
        }
        // Among silences that differ some gain by accident.
        assert!(spins < 8 * TRY, "case {case}: {spins} of {}", 40 * TRY);
    }
}

#[test]
fn a_long_silence_is_spun_through_for_no_longer_than_it_would_take_asleep() {
    let (mut pace, mut now) = after_silences(Poll::Adaptive, micros(5000));
    (0..8 * TRY).for_each(|_| _ = silence(&mut pace, &mut now, micros(300)));
    pace.pauses = 1;
    pace.note(false, now);
    assert_eq!(pace.wait(Outstanding::Nothing, false, now + micros(295)), Wait::GiveWay);
    assert_eq!(pace.wait(Outstanding::Nothing, false, now + micros(305)), Wait::Forever);
}

#[test]
fn where_somebody_computes_all_the_time_it_sleeps_and_tries_again_later() {
    let (mut pace, mut now) = after_silences(Poll::Adaptive, micros(5));
    // One who has a turn of 3 ms in each 10, and many short ones between.
    for turn in 0..=100 {
        pace.note(true, now);
        let away = if turn % 100 == 0 { Duration::from_millis(3) } else { micros(1) };
        assert_eq!(pace.wait(Outstanding::Announced, false, now), Wait::GiveWay, "{turn}");
        now += micros(100);
        pace.gave_way(away, now);
    }
    assert_eq!(pace.wait(Outstanding::Announced, false, now), Wait::AtMost(HOUSEKEEPING));
    assert_eq!(pace.wait(Outstanding::Nothing, false, now + CROWDED / 2), Wait::Forever);
    pace.note(true, now + CROWDED);
    assert_eq!(pace.wait(Outstanding::Nothing, false, now + CROWDED), Wait::Look);
}

#[test]
fn long_turns_that_are_rare_do_not_matter() {
    let (mut pace, mut now) = after_silences(Poll::Adaptive, micros(5));
    for _ in 0..100 {
        pace.note(true, now);
        pace.gave_way(Duration::from_millis(2), now);
        assert_eq!(pace.wait(Outstanding::Announced, false, now), Wait::GiveWay);
        now += Duration::from_millis(30);
    }
    // Nor a single one, as when a virtual CPU is stopped.
    now += WATCH;
    pace.note(true, now);
    pace.gave_way(Duration::from_millis(20), now);
    assert_eq!(pace.wait(Outstanding::Announced, false, now), Wait::GiveWay);
}

#[test]
fn what_a_limit_ends_is_slept_through_and_says_nothing_of_hosts() {
    let (mut pace, mut now) = after_silences(Poll::Adaptive, micros(5));
    for _ in 0..4 * TRY {
        pace.note(false, now);
        assert_eq!(pace.wait(Outstanding::Nothing, true, now), Wait::Forever);
        now += micros(250);
        pace.note(true, now);
    }
    assert_eq!(pace.wait(Outstanding::Nothing, false, now), Wait::Look);
}

#[test]
fn what_drives_take_says_nothing_of_hosts() {
    let (mut pace, mut now) = after_silences(Poll::Adaptive, micros(5));
    for _ in 0..50 {
        pace.wait(Outstanding::Announced, false, now);
        now += micros(140);
        pace.note(true, now);
        pace.note(false, now);
    }
    assert_eq!(pace.wait(Outstanding::Nothing, false, now), Wait::Look);
}

#[test]
fn it_does_not_spin_for_events_that_are_far_apart() {
    let (mut pace, now) = after_silences(Poll::Adaptive, micros(200));
    assert_eq!(pace.wait(Outstanding::Nothing, false, now), Wait::Forever);
}

#[test]
fn it_spins_for_drives_and_then_looks_at_them_now_and_then() {
    let (mut pace, now) = after_silences(Poll::Adaptive, micros(200));
    pace.note(false, now);
    assert_eq!(pace.wait(Outstanding::Silent, false, now + micros(10)), Wait::GiveWay);
    assert_eq!(pace.wait(Outstanding::Silent, false, now + micros(200)), Wait::AtMost(SHORTEST_NAP));
    assert_eq!(pace.wait(Outstanding::Announced, false, now + micros(200)), Wait::AtMost(HOUSEKEEPING));
}

#[test]
fn it_sleeps_at_once_when_drives_are_slow_but_looks_again_whether_they_still_are() {
    let mut now = Instant::now();
    let mut pace = Pace::new(Poll::Adaptive);
    let mut answer_after = |pace: &mut Pace, gap| {
        let wait = pace.wait(Outstanding::Announced, false, now);
        pace.note(false, now);
        now += gap;
        pace.note(true, now);
        wait
    };
    for _ in 0..40 * PROBE {
        answer_after(&mut pace, micros(600));
    }
    let spins = (0..PROBE).filter(|_| answer_after(&mut pace, micros(600)) == Wait::GiveWay).count();
    assert_eq!(spins, 1);
    for _ in 0..20 * PROBE {
        answer_after(&mut pace, micros(50));
    }
    assert_eq!(answer_after(&mut pace, micros(50)), Wait::GiveWay);
}

#[test]
fn it_goes_on_spinning_for_a_fast_drive_of_which_some_answers_take_long() {
    let mut now = Instant::now();
    let mut pace = Pace::new(Poll::Adaptive);
    for command in 0..1000 {
        assert_eq!(pace.wait(Outstanding::Announced, false, now), Wait::GiveWay, "command {command}");
        pace.note(false, now);
        now += if command % 5 == 4 { Duration::from_millis(5) } else { micros(60) };
        pace.note(true, now);
    }
}

#[test]
fn it_naps_longer_for_drives_that_take_longer() {
    let mut now = Instant::now();
    let mut pace = Pace::new(Poll::Never);
    for _ in 0..100 {
        pace.wait(Outstanding::Silent, false, now);
        pace.note(false, now);
        now += Duration::from_millis(4);
        pace.note(true, now);
    }
    let Wait::AtMost(nap) = pace.wait(Outstanding::Silent, false, now) else { panic!("it must sleep") };
    assert!(nap > micros(400) && nap <= micros(500), "{nap:?}");
}

#[test]
fn always_and_never_mean_what_they_say() {
    let (mut pace, now) = after_silences(Poll::Always, micros(500));
    assert_eq!(pace.wait(Outstanding::Nothing, false, now + Duration::from_secs(9)), Wait::Look);
    let (mut pace, now) = after_silences(Poll::Never, micros(1));
    assert_eq!(pace.wait(Outstanding::Nothing, false, now), Wait::Forever);
    assert_eq!(pace.wait(Outstanding::Silent, false, now), Wait::AtMost(SHORTEST_NAP));
}
