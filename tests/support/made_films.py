"""A film catalogue of a few films, in the format of the real one."""

import sqlite3
from pathlib import Path
from typing import Any

# ID, Title, Year, Runtime, Genre, Director, Cast (by first names), Country, Language
FILMS = [
    (83495, "The Matrix", 1999, 136.0, "Sci-Fi, Action", "Lana Wachowski, Lilly Wachowski",
     "Ada Nicodemou, Carrie-Anne Moss, Hugo Weaving, Keanu Reeves", "Australia", "English"),
    (11621, "Speed", 1994, 116.0, "Action", "Jan de Bont", "Keanu Reeves, Sandra Bullock",
     "United States", "English"),
    (3, "Amélie", 2001, 122.0, "Comedy", "Jean-Pierre Jeunet", "", "Germany, France", "French"),
    (4, "Titanic", 1997, 195.0, "Drama", "James Cameron", "Carrie-Anne Moss", "Mexico", None),
    (5, "The Singer", 2006, None, "", "A", None, None, None),
    (6, "The Singer", 2006, None, None, "B", None, None, None),
    (7, "Memento", 2000, 113.0, "Thriller", "Christopher Nolan", "Carrie-Anne Moss, Guy Pearce",
     "United States", "English"),
    (8, "Reeves Presents", 2010, 80.0, "Comedy", "Keanu Reeves", "Keanu Reeves", "China", None),
]  # fmt: skip
COLUMNS = ("ID", "Title", "Year", "Runtime", "Genre", "Director", "Cast", "Country", "Language")


def write_catalogue(path: Path, films: list[tuple[Any, ...]] = FILMS) -> Path:
    """movies.db as the package has it, as far as it is read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.execute(
        'CREATE TABLE "omdb" ("ID" INTEGER, "Title" TEXT, "Year" INTEGER, "Runtime" REAL, '
        '"Genre" TEXT, "Director" TEXT, "Cast" TEXT, "Country" TEXT, "Language" TEXT, '
        '"imdbRating" REAL)'
    )
    marks = ", ".join("?" * len(COLUMNS))
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    connection.executemany(f"INSERT INTO omdb ({names}) VALUES ({marks})", films)
    connection.commit()
    connection.close()
    return path
