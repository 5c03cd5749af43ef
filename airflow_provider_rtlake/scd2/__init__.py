"""The SCD Type 2 merge: from bronze (every change) to the history (every version).

``history(key) = fold(all changes of key, in the order of their positions)``. :mod:`.fold` is that rule, pure. The other
modules read changes (:mod:`.change`, :mod:`.values`, :mod:`.position`), decide what may be published
(:mod:`.cut`), plan
what a merge writes (:mod:`.plan`), check it (:mod:`.checks`) and carry it out in Spark on a Nessie branch
(:mod:`.job`).
"""
