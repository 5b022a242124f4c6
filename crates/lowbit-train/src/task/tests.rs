use super::{Context, Task, run};
use crate::recipe::Recipe;
use crate::report::Row;
use std::path::Path;

const SMOKE: &str = include_str!("../../recipes/smoke.toml");

fn rows(recipe: &str, tasks: &[Task], work: Option<&Path>) -> Vec<Row> {
    let recipe = Recipe::parse(recipe).unwrap();
    let context = Context::new(recipe, work.map(Path::to_owned), false).unwrap();
    let mut rows = Vec::new();
    for &task in tasks {
        // Memory depends on everything else that the process does.
        run(task, &context, &mut |row| rows.push(Row { peak_bytes: 0, ..row })).unwrap();
    }
    rows
}

fn names(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| row.recipe.as_str()).collect()
}

#[test]
fn quantization() {
    let rows = rows(SMOKE, &[Task::Qat], None);
    let want = ["dense", "dense-longer", "ptq-int2", "qat-int2", "ptq-int4", "qat-int4"];
    assert_eq!(names(&rows), want);
    let bits = |at: usize| rows[at].bits_per_weight;
    assert_eq!((bits(0), bits(2), bits(4)), (32.0, bits(3), bits(5)));
    // Layers of 24×16, 16×8 and 8×5: 16, 8 and 5 rows of words of 16 codes, and an f32 scale for each.
    let int2 = 16.0 * (2.0 + 1.0) + 8.0 * (1.0 + 1.0) + 5.0 * (1.0 + 1.0);
    assert!((bits(2) - 32.0 * int2 / (24.0 * 16.0 + 16.0 * 8.0 + 8.0 * 5.0)).abs() < 1e-9);
    assert!(rows[0].accuracy > 0.5, "{}", rows[0].accuracy);
    assert!(rows[3].accuracy > rows[2].accuracy, "training did not help: {rows:?}");
}

#[test]
fn pruning() {
    let rows = rows(SMOKE, &[Task::Prune], None);
    assert_eq!(names(&rows), ["dense", "2:4", "one-shot", "gradual", "movement"]);
    let left = |at: usize| rows[at].weights_left;
    assert_eq!((left(0), left(1)), (1.0, 0.5));
    // 552 weights in three layers, each of which rounds its own number.
    for row in &rows[2..] {
        assert!(
            (row.weights_left - 0.2).abs() <= 1.5 / 552.0,
            "{} {}",
            row.recipe,
            row.weights_left
        );
    }
    assert!(rows[1].bits_per_weight > 17.0 && rows[1].bits_per_weight < 21.0);
    assert!((rows[2].bits_per_weight - 1.0 - 32.0 * left(2)).abs() < 1e-9);
}

#[test]
fn tickets() {
    let rows = rows(SMOKE, &[Task::Tickets], None);
    assert_eq!(names(&rows), ["dense", "ticket", "ticket", "random-mask", "reinit"]);
    // 0.8 of 512 and 0.9 of 40 weights, rounded in each layer; then again.
    let left: Vec<_> = rows.iter().map(|row| (row.weights_left * 552.0).round()).collect();
    assert_eq!(left, [552.0, 445.0, 360.0, 360.0, 360.0]);
}

#[test]
fn gradients() {
    let rows = rows(SMOKE, &[Task::Gradients], None);
    let sent = |name: &str| {
        rows.iter().find(|row| row.recipe == name).map(|row| row.bytes_sent as usize).unwrap()
    };
    // 13 steps (12 of 20 examples and one of 10) of three matrices and three vectors.
    let tensors = [384usize, 16, 128, 8, 40, 5];
    let bytes =
        |of: &dyn Fn(usize) -> usize| 13 * tensors.iter().map(|&len| of(len)).sum::<usize>();
    assert_eq!(sent("f32"), bytes(&|len| 4 * len));
    for (name, bits) in [("qsgd8", 8), ("qsgd4", 4), ("qsgd2", 2)] {
        assert_eq!(sent(name), bytes(&|len| 4 + (bits * len).div_ceil(8)), "{name}");
    }
    assert_eq!(sent("sign"), bytes(&|len| 4 + len.div_ceil(8)));
    assert_eq!(sent("sign-ef"), sent("sign"));
    assert_eq!(sent("top-ef"), bytes(&|len| 8 * len.div_ceil(100)));
    assert!(rows.iter().all(|row| row.accuracy > 0.0));
}

/// Runs that are there already are not trained again, and give the same rows.
#[test]
fn runs_go_on_where_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let first = rows(SMOKE, &Task::ALL, Some(folder.path()));
    let newest = || {
        let files = std::fs::read_dir(folder.path()).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().modified().unwrap()).max().unwrap()
    };
    let before = newest();
    assert_eq!(rows(SMOKE, &Task::ALL, Some(folder.path())), first);
    assert_eq!(newest(), before, "a run was trained again");
    assert_eq!(rows(SMOKE, &Task::ALL, None), first);
}

#[test]
fn recipes_are_checked() {
    let parse = |text: &str| Recipe::parse(text).unwrap_err().to_string();
    assert!(parse("").contains("seeds"));
    assert!(parse(&SMOKE.replace("seeds = [1]", "seeds = []")).contains("at least one seed"));
    assert!(parse(&SMOKE.replace("hidden", "hiden")).contains("hiden"));
    assert!(parse(&SMOKE.replace("\"2:4\", schedule", "\"4:2\", schedule")).contains("4:2"));
    let fails = |text: &str, task: Task| {
        let context = Context::new(Recipe::parse(text).unwrap(), None, false).unwrap();
        run(task, &context, &mut |_| {}).unwrap_err().to_string()
    };
    let bare = SMOKE.split("[qat]").next().unwrap();
    for task in Task::ALL {
        assert!(fails(bare, task).contains(task.name()));
    }
    let fails_with = |from: &str, to: &str, task| fails(&SMOKE.replace(from, to), task);
    assert!(fails_with("int2-channel", "int9-channel", Task::Qat).contains("int9-channel"));
    assert!(fails_with("int2-channel", "nf4-g64", Task::Qat).contains("nf4-g64"));
    assert!(fails_with("int4-tensor-asym", "int4-channel", Task::Qat).contains("one scale"));
    assert!(fails_with("sparsity = 0.8", "sparsity = 1.8", Task::Prune).contains("1.8"));
    assert!(fails_with("\"qsgd8\"", "\"qsgd9\"", Task::Gradients).contains("qsgd9"));
    let unnamed = SMOKE.replace("name = \"clusters\"", "name = \"mnist\"");
    let error =
        Context::new(Recipe::parse(&unnamed).unwrap(), None, false).err().unwrap().to_string();
    assert!(error.contains("mnist") && error.contains("no folder"), "{error}");
    let nowhere = SMOKE.replace("[data]", "[data]\nfolder = \"/nowhere\"");
    assert!(Context::new(Recipe::parse(&nowhere).unwrap(), None, false).is_err());
}

/// The recipes that come with the crate can be read.
#[test]
fn recipes_can_be_read() {
    let ours = [include_str!("../../recipes/demo.toml"), include_str!("../../recipes/lenet.toml")];
    for text in ours.into_iter().chain([SMOKE]) {
        let recipe = Recipe::parse(text).unwrap();
        assert!(Task::ALL.iter().all(|task| task.is_in(&recipe)));
    }
}
