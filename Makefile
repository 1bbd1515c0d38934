# make docs: the site in build/site, from a clone with `pip install -e '.[docs]'`.
.PHONY: docs

docs:
	python docs/generate.py
	sphinx-build --fail-on-warning --keep-going --quiet -c docs -b html . build/site
	python docs/check_links.py build/site
