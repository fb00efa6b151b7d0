//! OpenCompass's own configuration files, as they are, against the registries.

use super::{
    imports::{self, Imports},
    python,
};
use oc_eval::{EvalConfig, datasets, models};
use oc_pyconfig::{Limits, Value};
use serde_json::Value as Json;
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

const VERSION: &str = "0.5.4";

/// OpenCompass's package, fetched once by pip and kept beside the build. `None`, with a notice, where that fails;
/// with CI=true that is a failure.
fn package() -> Option<PathBuf> {
    // The tests of this process fetch it once; one that failed says so itself.
    static FETCHING: Mutex<()> = Mutex::new(());
    let _one = FETCHING.lock().unwrap_or_else(PoisonError::into_inner);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/opencompass");
    let folder = root.join(VERSION);
    if folder.join("opencompass/configs").is_dir() {
        return Some(folder);
    }
    let fetched = root.join(format!("fetching-{}", std::process::id()));
    let python = |arguments: &[&std::ffi::OsStr]| {
        let run = Command::new("python3").arg("-m").args(arguments).output();
        run.map_err(|error| error.to_string()).and_then(|output| {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() { Ok(()) } else { Err(text) }
        })
    };
    let name = format!("opencompass=={VERSION}");
    let wheel = fetched.join(format!("opencompass-{VERSION}-py3-none-any.whl"));
    let unpacked = fetched.join("unpacked");
    let done = python(&[
        "pip".as_ref(),
        "download".as_ref(),
        "--no-deps".as_ref(),
        "--quiet".as_ref(),
        "--dest".as_ref(),
        fetched.as_ref(),
        name.as_ref(),
    ])
    .and_then(|()| python(&["zipfile".as_ref(), "-e".as_ref(), wheel.as_ref(), unpacked.as_ref()]))
    .and_then(|()| {
        // Another test may have been faster.
        let moved = std::fs::rename(&unpacked, &folder);
        if folder.is_dir() { Ok(()) } else { moved.map_err(|error| error.to_string()) }
    });
    std::fs::remove_dir_all(&fetched).ok();
    match done {
        Ok(()) => Some(folder),
        Err(reason) if std::env::var("CI").is_ok_and(|ci| ci == "true") => panic!("pip download {name}: {reason}"),
        Err(reason) => {
            eprintln!("skipped: pip download {name}: {reason}");
            None
        }
    }
}

/// A variable of one of the package's files, as JSON; `None` where there is no such file.
fn variable(package: &Path, file: &str, variable: &str) -> Option<Json> {
    let path = package.join("opencompass/configs").join(file);
    let source = std::fs::read_to_string(&path).ok()?;
    let evaluated = oc_pyconfig::evaluate(&path.to_string_lossy(), &source, &Imports::default(), Limits::default());
    let evaluated = evaluated.unwrap_or_else(|error| panic!("{error}"));
    let value = evaluated.get(variable).unwrap_or_else(|| panic!("{file} has no {variable}"));
    let Value::List(items) = value else { panic!("{variable} of {file} is {}", value.kind()) };
    let dictionary = |item: &Value| match item {
        Value::Dict(dict) => short(python::any_dictionary(dict).unwrap()),
        other => panic!("{variable} of {file} holds {}", other.kind()),
    };
    Some(items.iter().map(dictionary).collect())
}

/// With types by their last name: files import from packages, the registries name the defining modules.
fn short(mut json: Json) -> Json {
    match &mut json {
        Json::Array(items) => items.iter_mut().for_each(|item| *item = short(item.take())),
        Json::Object(map) => {
            for (key, value) in map {
                let last = value.as_str().and_then(|name| name.rsplit('.').next()).map(Json::from);
                *value = match last {
                    Some(last) if key == "type" => last,
                    _ => short(value.take()),
                };
            }
        }
        _ => {}
    }
    json
}

#[test]
fn the_registry_of_datasets_is_opencompasss() {
    let Some(package) = package() else { return };
    let mut compared = 0;
    for family in datasets::families() {
        for dataset in family.datasets {
            for name in dataset.aliases.iter().chain([&dataset.name]) {
                let file = format!("datasets/{}/{name}.py", family.folder);
                let Some(theirs) = variable(&package, &file, family.variable) else { continue };
                let ours: Json = dataset.configs().into_iter().map(short).collect();
                let (theirs, ours) = (theirs.as_array().unwrap(), ours.as_array().unwrap());
                assert_eq!(theirs.len(), ours.len(), "{name}");
                for (theirs, ours) in theirs.iter().zip(ours) {
                    assert_eq!(theirs, ours, "{name}");
                }
                compared += 1;
            }
        }
    }
    assert!(compared >= 9, "{compared}");
}

/// Its files of these datasets, found by their names as `--datasets` finds them, name nothing that does not exist here.
#[test]
fn its_files_are_accepted_unmodified() {
    let Some(package) = package() else { return };
    let configs = package.join("opencompass/configs");
    let own = |folder: &str| {
        let files = std::fs::read_dir(configs.join("datasets").join(folder)).unwrap().flatten();
        let names = files.filter_map(|file| file.file_name().to_str()?.strip_suffix(".py").map(str::to_owned));
        names.collect::<Vec<_>>()
    };
    let registered = datasets::families().iter().filter(|family| !family.folder.is_empty());
    let registered = registered.flat_map(|family| family.datasets).map(|dataset| dataset.name.to_owned());
    let names: Vec<String> = ["siqa", "winograd"].into_iter().flat_map(own).chain(registered).collect();
    assert!(names.len() > 20 && names.iter().any(|name| name == "siqa_gen_e78df3"), "{names:?}");
    for name in names {
        let found = python::named_datasets(&configs, &name, &mut Vec::new());
        let found = found.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(found.is_some_and(|entries| !entries.is_empty()), "{name}");
    }
}

#[test]
fn the_summary_groups_are_opencompasss() {
    let Some(package) = package() else { return };
    let mut compared = 0;
    for family in datasets::families() {
        let (file, name) =
            (format!("summarizers/groups/{}.py", family.folder), format!("{}_summary_groups", family.folder));
        let Some(theirs) = variable(&package, &file, &name) else { continue };
        let any = family.datasets[0].name.to_owned();
        let groups = datasets::groups(&EvalConfig { datasets: vec![any], ..EvalConfig::default() }).unwrap();
        assert_eq!(theirs, groups.iter().map(imports::group).collect::<Json>(), "{name}");
        compared += 1;
    }
    assert!(compared >= 3, "{compared}");
}

#[test]
fn the_registry_of_models_is_opencompasss() {
    let Some(package) = package() else { return };
    for model in models::all() {
        let file = format!("models/{}", model.file());
        let theirs = variable(&package, &file, "models").unwrap_or_else(|| panic!("there is no {file}"));
        assert_eq!(theirs, short(Json::from(vec![model.config()])), "{}", model.name);
    }
}

/// Every file is evaluated, whatever types it names.
#[test]
fn the_tutorials_files_are_evaluated_unmodified() {
    let Some(package) = package() else { return };
    let folders = [
        "datasets/ceval",
        "datasets/siqa",
        "datasets/winograd",
        "datasets/mmlu",
        "datasets/cmmlu",
        "models/opt",
        "models/hf_internlm",
        "models/internlm",
        "summarizers/groups",
    ];
    let mut evaluated = 0;
    for folder in folders {
        let folder = package.join("opencompass/configs").join(folder);
        for file in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if file.extension().is_none_or(|ending| ending != "py") {
                continue;
            }
            let source = std::fs::read_to_string(&file).unwrap();
            if let Err(error) =
                oc_pyconfig::evaluate(&file.to_string_lossy(), &source, &Imports::default(), Limits::default())
            {
                panic!("{error}");
            }
            evaluated += 1;
        }
    }
    assert!(evaluated > 150, "{evaluated}");
}
